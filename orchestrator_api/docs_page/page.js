"use strict";

// The token and the tenant live in the variables of this page: not in a cookie, not in storage, not in the address.
(() => {
  const PREFIX = new URL(".", document.baseURI); // .../orchestrator/, with the page at .../orchestrator/docs
  const form = document.getElementById("caller");
  const state = document.getElementById("state");
  let caller = { token: "", tenant: "" };

  function tell(message, failed) {
    state.textContent = message;
    state.classList.toggle("failed", failed);
  }

  // Swagger UI asks for required headers before it sends anything; what this page adds need not be typed in.
  function withoutWhatIsAdded(description) {
    for (const path of Object.values(description.paths)) {
      for (const operation of Object.values(path)) {
        for (const parameter of operation.parameters || []) {
          if (parameter.in === "header" && parameter.required) {
            parameter.required = false;
            parameter.description += " Added by this page when left empty.";
          }
          if (parameter.in === "header") {
            delete parameter.example; // It would be filled in, and all calls would belong to one trace.
          }
        }
      }
    }
    return description;
  }

  function identified(request) {
    // Never to anybody else, should a document ever name another server.
    if (new URL(request.url, document.baseURI).origin !== location.origin) {
      return request;
    }
    request.headers["Authorization"] = `Bearer ${caller.token}`;
    request.headers["X-Stella-Tenant"] ||= caller.tenant;
    if (request.method !== "GET" && request.method !== "HEAD") {
      request.headers["Idempotency-Key"] ||= crypto.randomUUID();
    }
    return request;
  }

  async function show() {
    const response = await fetch(new URL("openapi.json", PREFIX), {
      headers: { Authorization: `Bearer ${caller.token}`, "X-Stella-Tenant": caller.tenant },
      credentials: "omit",
    });
    const body = await response.json();
    if (!response.ok) {
      throw new Error(`${body.error.code}: ${body.error.message}`);
    }
    SwaggerUIBundle({
      spec: withoutWhatIsAdded(body),
      dom_id: "#document",
      deepLinking: false,
      validatorUrl: null,
      persistAuthorization: false,
      requestInterceptor: identified,
    });
    tell(`Calls are sent for ${caller.tenant}.`, false);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    caller = {
      token: document.getElementById("token").value.trim(),
      tenant: document.getElementById("tenant").value.trim(),
    };
    tell("Reading the document ...", false);
    show().catch((error) => tell(`The document cannot be shown: ${error.message}`, true));
  });
})();
