// A static server for trying the page and for its tests: `node test/serve.mjs FOLDER [PORT]`. Any other static server works, too.

import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const TYPES = {
  '.html': 'text/html; charset=utf-8', '.css': 'text/css', '.js': 'text/javascript', '.json': 'application/json', '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm', '.jinja': 'text/plain', '.ts': 'text/plain',
};

/** Headers that isolate a page from other sites, which allows it to share memory between threads. */
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

/** Serves `folder`. `tamper(request, response, path)` may answer a request itself and then returns `true`. */
export async function serve(folder, { port = 0, ranges = true, isolated = false, tamper } = {}) {
  const root = resolve(folder);
  const server = createServer(async (request, response) => {
    if (isolated) for (const [name, value] of Object.entries(ISOLATED)) response.setHeader(name, value);
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    if (tamper?.(request, response, path)) return;
    let file = join(root, path);
    const found = async () => stat(file).catch(() => undefined);
    let facts = await found();
    if (facts?.isDirectory()) {
      file = join(file, 'index.html');
      facts = await found();
    }
    if (!file.startsWith(root) || !facts?.isFile()) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('not found');
      return;
    }
    const headers = {
      'content-type': TYPES[extname(file)] ?? 'application/octet-stream',
      'cache-control': 'no-cache',
      etag: `"${facts.size}-${Math.floor(facts.mtimeMs)}"`,
    };
    if (ranges) headers['accept-ranges'] = 'bytes';
    const asked = ranges && /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const same = request.headers['if-range'] === undefined || request.headers['if-range'] === headers.etag;
    let [start, end, status] = [0, facts.size - 1, 200];
    if (asked && same) {
      start = Number(asked[1]);
      end = asked[2] === '' ? end : Math.min(Number(asked[2]), end);
      if (start > end) {
        response.writeHead(416, { 'content-range': `bytes */${facts.size}` }).end();
        return;
      }
      status = 206;
      headers['content-range'] = `bytes ${start}-${end}/${facts.size}`;
    }
    headers['content-length'] = facts.size === 0 ? 0 : end - start + 1;
    response.writeHead(status, headers);
    if (request.method === 'HEAD' || facts.size === 0) response.end();
    else createReadStream(file, { start, end }).on('error', () => response.destroy()).pipe(response);
  });
  await new Promise((done) => server.listen(port, '127.0.0.1', done));
  const url = `http://127.0.0.1:${server.address().port}/`;
  return { url, close: () => new Promise((done) => server.close(done).closeAllConnections()) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve(process.argv[2] ?? 'dist', { port: Number(process.argv[3] ?? 8080), isolated: true });
  console.log(url);
}
