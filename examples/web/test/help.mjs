// Shared by the tests: a server, models, the native program's tokens, calls of the package.

import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { browser } from './browser.mjs';
import { serve } from './serve.mjs';

process.chdir(join(dirname(fileURLToPath(import.meta.url)), '..'));
/** The native program. */
export const native = process.env.KINGLET ?? resolve('../../target/release/kinglet');
/** The folders of the demo models, which tests don't modify. */
const DEMO = '../../models/demo/';
export const ASK = 'Tell me a story about a dog who finds a boat.';
export const server = await serve('dist');

const known = new Map();

/** The last event of the native program, with its answer. Answers of demo models are cached. */
export function nativeDone(args, input = '') {
  const key = JSON.stringify([args, input]);
  let done = known.get(key);
  if (!done) {
    const lines = execFileSync(native, args, { input, encoding: 'utf8' }).trim().split('\n');
    done = lines.map((line) => JSON.parse(line)).find(({ event }) => event === 'done');
    if (args.some((argument) => argument.startsWith(DEMO))) known.set(key, done);
  }
  return done;
}

/** The native program's greedy tokens. */
export function nativeTokens(model, most) {
  const args = ['chat', '--model', `${DEMO}${model}`, '--backend', 'cpu', '--temperature', '0', '--max-tokens', String(most), '--json'];
  return nativeDone(args, `${ASK}\n`).ids;
}

/** Tests that need a GPU, which take longest, and the others. */
const waiting = { first: [], then: [] };

/** A test with its own browser. With `threads` it is skipped if the package was built without threads. `runTests` runs it. */
export function inBrowser(name, options, body) {
  const wanted = process.argv.slice(2);
  if (wanted.length > 0 && !wanted.some((part) => name.includes(part))) return;
  const { threads = false, ...rest } = options;
  const skip = threads && !existsSync('dist/kinglet/threads') && 'build.sh --quick leaves out the module with threads';
  waiting[rest.webgpu ? 'first' : 'then'].push(() => test(name, { timeout: 360_000, skip }, async () => {
    const { context, close } = await browser(rest);
    try {
      await body(context);
    } finally {
      await close();
    }
  }));
}

/**
 * Runs all browser tests, as many at a time as there are processors. An emulated GPU compiles kernels in one thread of its browser
 * (SwiftShader), so two browsers compile at the same time.
 */
export function runTests() {
  describe('in Chromium', { concurrency: availableParallelism() }, () => [...waiting.first, ...waiting.then].forEach((run) => run()));
}

/** The native program's greedy continuation of a text. */
export function nativeContinuation(model, prompt, most) {
  return nativeGreedy(`${DEMO}${model}`, prompt, most);
}

/** The same for a model in any folder. */
export function nativeGreedy(folder, prompt, most) {
  const args = ['generate', '--model', folder, '--backend', 'cpu', '--activations', 'f32', '--greedy', '--max-tokens', String(most), '--json', '--prompt', prompt];
  return nativeDone(args).ids;
}

/** Quantizes a demo model to 4 bits. */
export function quantize(model, folder) {
  execFileSync(native, ['quantize', '--model', `${DEMO}${model}`, '--bits', '4', '--force', '--out', folder], { stdio: 'pipe' });
}

/** Makes the page's worker keep its WebGPU device as `grabbed`, so that a test can destroy it. */
export function grabDevice(_, response, path) {
  if (path !== '/kinglet/worker.js') return false;
  const grab = `const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) { return (self.grabbed = await request.apply(this, args)); };\n`;
  response.writeHead(200, { 'content-type': 'text/javascript' }).end(grab + readFileSync('dist/kinglet/worker.js', 'utf8'));
  return true;
}

/** A copy of a demo model that the test may damage, served while the test runs. */
export async function withModel(options, body) {
  const folder = mkdtempSync(join(tmpdir(), 'kinglet-model-'));
  cpSync('dist/models/xlstm', folder, { recursive: true });
  cpSync('dist/kinglet', join(folder, 'kinglet'), { recursive: true });
  copyFileSync('dist/style.css', join(folder, 'style.css'));
  const own = await serve(folder, options);
  try {
    await body(own.url, folder);
  } finally {
    await own.close();
    rmSync(folder, { recursive: true });
  }
}

/** Loads a model in the page. Returns what is known about it, or the error's code and message. */
export function load(page, url, options = {}) {
  return page.evaluate(async ({ url, options }) => {
    const phases = {};
    const onProgress = ({ phase, loaded }) => (phases[phase] = loaded);
    globalThis.model?.dispose();
    try {
      globalThis.model = await kinglet.Model.load(url, { ...options, onProgress });
    } catch (error) {
      globalThis.model = undefined;
      return { code: error.code, message: error.message, phases };
    }
    return { ...model.info, phases };
  }, { url, options });
}

export function chat(page, most, options = {}) {
  return page.evaluate(async ({ ask, options }) => {
    globalThis.session ??= await model.session();
    return await session.chat([{ role: 'user', content: ask }], { temperature: 0, ...options }).answer;
  }, { ask: ASK, options: { maxTokens: most, ...options } });
}
