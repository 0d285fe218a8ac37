"""The benchmark's clients take messages out of bytes, as they were put in, whatever way these arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from bench.frames import messages

TEXTS = st.lists(st.text(max_size=400), max_size=8)


@given(texts=TEXTS, pings=st.sets(st.integers(0, 8)), size=st.integers(1, 300))
def test_messages_come_out_however_their_bytes_arrive(texts: list[str], pings: set[int], size: int) -> None:
    server = FrameProtocol(client=False, extensions=[])
    data = b""
    for number, text in enumerate(texts):
        data += server.ping(b"alive") if number in pings else b""
        data += server.send_data(text, fin=True)
    data += server.close(code=1001)
    found, rest = [], b""
    for begin in range(0, len(data), size):
        more, rest = messages(rest + data[begin : begin + size])
        found += more
    assert [each.decode() for each in found] == texts
    assert rest == b""


@pytest.mark.parametrize("frame", [b"\x01\x01x", b"\x82\x01x", b"\x81\xff" + bytes(16)])
def test_what_our_server_never_sends_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"a frame of more|neither a whole text"):
        messages(frame)
