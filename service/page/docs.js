// Script of page/docs.html: the API to read and to try, in Swagger UI, which comes with BentoML.

/* global SwaggerUIBundle */

const spec = await (await fetch("openapi.json")).json();
// A proxy may serve the page below a path that the document does not know.
spec.servers = [{ url: new URL(".", location).href.replace(/\/$/, "") }];
SwaggerUIBundle({
  spec,
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null, // no request to another host
});
