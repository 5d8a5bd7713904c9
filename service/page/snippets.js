// Code snippets that send the page's request.

/** Return a curl command and a Python program that request the map on the page. */
export function snippets({ file, model, target, method }) {
  const params = method === "cam" ? { model, target } : { model, target, method };
  const url = new URL("explain", document.baseURI);
  url.search = new URLSearchParams(params);
  return {
    curl: `curl --data-binary @${quoted(file)} \\\n  '${String(url).replaceAll("'", "%27")}'`,
    python: [
      "from pathlib import Path",
      "import httpx",
      "",
      "answer = httpx.post(",
      `    ${JSON.stringify(String(new URL("explain", document.baseURI)))},`,
      `    params=${JSON.stringify(params).replaceAll('":"', '": "').replaceAll('","', '", "')},`,
      `    content=Path(${JSON.stringify(file)}).read_bytes(),`,
      ").raise_for_status().json()",
      'print(answer["label"], answer["confidence"], answer["cam"]["box"])',
    ].join("\n"),
  };
}

function quoted(file) {
  return /^[\w.-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`;
}
