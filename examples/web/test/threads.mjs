// Threads on isolated pages, and the choice between backends.

import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { blank, picture, ready } from './browser.mjs';
import { ASK, chat, inBrowser, load, nativeTokens } from './help.mjs';
import { serve } from './serve.mjs';

/** A server with isolated pages. */
async function isolated(options, body) {
  const own = await serve('dist', { isolated: true, ...options });
  try {
    await body(own.url);
  } finally {
    await own.close();
  }
}

function javascript(response, text) {
  response.writeHead(200, { 'content-type': 'text/javascript' }).end(text);
  return true;
}

inBrowser('an isolated page computes with threads, with the same result', { threads: true }, async (context) => {
  await isolated({}, async (url) => {
    const page = await blank(context, url);
    for (const [model, threads] of [['hybrid', 2], ['hybrid', 5], ['xlstm', 3]]) {
      const info = await load(page, `/models/${model}/`, { threads });
      assert.equal(info.threads, threads, info.message ?? info.notices.join());
      assert.match(info.description, new RegExp(`${threads} threads`));
      await page.evaluate(() => (globalThis.session = undefined));
      assert.deepEqual((await chat(page, 100)).ids, nativeTokens(model, 100));
      assert.equal((await chat(page, 100)).reusedTokens > 0, true);
      assert.equal(page.workers().length > threads - 1, true, 'the threads are workers');
    }
    await page.evaluate(() => model.dispose());
    assert.equal((await load(page, '/models/xlstm/', { threads: 1 })).threads, 1);
    assert.equal((await load(page, '/models/xlstm/', { threads: 0 })).code, 'argument');
  });
});

inBrowser('without threads there is only one, and a crashed thread ends the model', { threads: true }, async (context) => {
  let answer = (response) => (response.writeHead(404).end(), true);
  let broken = '/kinglet/threads/kinglet_web_bg.wasm';
  const tamper = (_, response, path) => path === broken && answer(response);
  await isolated({ tamper }, async (url) => {
    const page = await blank(context, url);
    const info = await load(page, '/models/xlstm/', { threads: 2 });
    assert.equal(info.threads, 1, info.message);
    assert.match(info.notices.join(), /Threads are not used/);
    assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
    broken = '/kinglet/thread.js';
    answer = (response) => javascript(response, `self.onmessage = ({ data }) => new BroadcastChannel(data.crashes).postMessage('of a test');`);
    // It may crash during loading or later.
    const loaded = await load(page, '/models/xlstm/', { threads: 2 });
    const error = loaded.code ? loaded : await page.evaluate(async () => {
      try {
        const session = await model.session();
        for (;;) await session.stats();
      } catch ({ code, message }) {
        return { code, message };
      }
    });
    assert.equal(error.code, 'crashed');
    assert.match(error.message, /of a test/);
  });
});

inBrowser('the page uses threads if possible', { threads: true, viewport: { width: 900, height: 600 } }, async (context) => {
  await isolated({}, async (url) => {
    const page = await context.newPage();
    await page.addInitScript(() => Object.defineProperty(WorkerNavigator.prototype, 'hardwareConcurrency', { get: () => 4 }));
    await page.goto(url);
    await ready(page);
    await page.fill('#input', ASK);
    await page.keyboard.press('Enter');
    await page.waitForSelector('body[data-state=answering]');
    await ready(page);
    await page.waitForFunction(() => document.getElementById('stats').textContent.includes('tokens/s'));
    assert.match(await page.textContent('article.assistant .text'), /\w/);
    await picture(page, 'isolated');
  });
});

inBrowser('a GPU that computes wrongly is detected', { webgpu: true }, async (context) => {
  // A GPU that reads embeddings as zeros, and claims not to be emulated.
  const broken = `const create = GPUDevice.prototype.createShaderModule;
    GPUDevice.prototype.createShaderModule = function ({ code, ...rest }) {
      return create.call(this, { code: code.replace('params.scale * weights_quad', '0.0 * weights_quad'), ...rest });
    };
    Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });\n`;
  const tamper = (_, response, path) =>
    path === '/kinglet/worker.js' && javascript(response, broken + readFileSync('dist/kinglet/worker.js', 'utf8'));
  const own = await serve('dist', { tamper });
  try {
    const page = await blank(context, own.url);
    const refused = await load(page, '/models/xlstm/', { backend: 'webgpu' });
    assert.equal(refused.code, 'device', JSON.stringify(refused));
    assert.match(refused.message, /self-test/);
    const left = await load(page, '/models/xlstm/');
    assert.deepEqual([left.backend, left.measured], ['cpu', undefined], left.message);
    assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
  } finally {
    await own.close();
  }
});

inBrowser('GPU and CPU are measured once, and the faster one is used', { webgpu: true }, async (context) => {
  // The adapter is emulated by the CPU, and normally wouldn't be considered.
  const tamper = (_, response, path) => path === '/kinglet/worker.js' && javascript(
    response,
    `Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });\n${readFileSync('dist/kinglet/worker.js', 'utf8')}`,
  );
  const own = await serve('dist', { tamper });
  try {
    const page = await blank(context, own.url);
    const first = await load(page, '/models/xlstm/');
    assert.ok(first.measured, first.message);
    assert.ok(first.measured.cpu > 0 && first.measured.webgpu > 0, JSON.stringify(first.measured));
    assert.equal(first.backend, first.measured.cpu <= first.measured.webgpu ? 'cpu' : 'webgpu');
    assert.deepEqual((await chat(page, 4)).ids, nativeTokens('xlstm', 4));
    const { computedTokens } = await page.evaluate(() => model.stats());
    assert.ok(computedTokens < 40, 'what was tried is not among what was done');
    const second = await load(page, '/models/xlstm/');
    assert.deepEqual([second.backend, second.measured], [first.backend, undefined], 'it is remembered');
    const uncached = await load(page, '/models/xlstm/', { cache: 'off' });
    assert.deepEqual([uncached.backend, uncached.measured], ['cpu', undefined], 'the model is not loaded twice');
  } finally {
    await own.close();
  }
});
