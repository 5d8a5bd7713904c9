// Code snippets that send the page's request.

/** Return a curl command and a Python program that request the map on the page.
 *
 * `model`: its name, and its version if that is not the active one. `locked`: the service asks for a key, which the code takes from the environment.
 */
export function snippets({ file, model, target, method, locked }) {
  const params = { ...model, target, ...(method === "cam" ? {} : { method }) };
  const url = new URL("explain", document.baseURI);
  url.search = new URLSearchParams(params);
  return {
    curl: `curl --data-binary @${quoted(file)} \\\n${locked ? CURL_KEY : ""}  '${String(url).replaceAll("'", "%27")}'`,
    python: [
      ...(locked ? ["import os"] : []),
      "from pathlib import Path",
      "import httpx",
      "",
      "answer = httpx.post(",
      `    ${JSON.stringify(String(new URL("explain", document.baseURI)))},`,
      `    params=${JSON.stringify(params).replaceAll('":"', '": "').replaceAll('","', '", "')},`,
      `    content=Path(${JSON.stringify(file)}).read_bytes(),`,
      ...(locked ? [PYTHON_KEY] : []),
      ").raise_for_status().json()",
      'print(answer["label"], answer["confidence"], answer["cam"]["box"])',
    ].join("\n"),
  };
}

const CURL_KEY = '  -H "Authorization: Bearer $LIMELIGHT_API_KEY" \\\n';
const PYTHON_KEY =
  '    headers={"Authorization": f"Bearer {os.environ[\'LIMELIGHT_API_KEY\']}"},';

function quoted(file) {
  return /^[\w.-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`;
}
