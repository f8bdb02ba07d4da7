// Swagger UI over our own OpenAPI document, with nothing from another host.
window.SwaggerUIBundle({
  url: document.getElementById("swagger").dataset.url,
  domNode: document.getElementById("swagger"),
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
