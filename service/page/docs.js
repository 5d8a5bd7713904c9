// Script of page/docs.html: the API to read and to try, in Swagger UI, which comes with BentoML.

/* global SwaggerUIBundle */

import { authorization } from "./key.js";

const response = await fetch("openapi.json", { headers: authorization() });
if (response.status === 401) {
  document.getElementById("api").textContent =
    "This service asks for an API key. Enter it on the page at /, then come back in the same tab.";
  throw new Error("an API key is needed");
}
const spec = await response.json();
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
  requestInterceptor: (request) => {
    Object.assign(request.headers, authorization());
    return request;
  },
});
