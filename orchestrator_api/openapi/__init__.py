"""The OpenAPI document: what each route takes and gives, told from the schemas that hold it to that."""
