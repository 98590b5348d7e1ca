// Further tests: quantized models, models larger than the memory limit, and a page whose device is lost.

import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { blank, picture, ready } from './browser.mjs';
import { enlarge } from './large.mjs';
import { grabDevice, inBrowser, load, nativeContinuation, nativeGreedy, quantize } from './help.mjs';
import { serve } from './serve.mjs';

/** Serves the package and, under `model/`, what `make` puts there. */
async function withMade(make, body) {
  const folder = mkdtempSync(join(tmpdir(), 'kinglet-made-'));
  cpSync('dist/kinglet', join(folder, 'kinglet'), { recursive: true });
  cpSync('dist/style.css', join(folder, 'style.css'));
  cpSync('dist/models/xlstm', join(folder, 'model'), { recursive: true });
  let own;
  try {
    const made = make(join(folder, 'model'));
    own = await serve(folder);
    await body(own.url, join(folder, 'model'), made);
  } finally {
    await own?.close();
    rmSync(folder, { recursive: true });
  }
}

function greedy(page, maxTokens) {
  return page.evaluate(async (maxTokens) => {
    const session = await model.session();
    const { ids } = await session.generate('Once upon', { temperature: 0, maxTokens }).answer;
    return { ids, ...await model.stats() };
  }, maxTokens);
}

inBrowser('4-bit models give the native tokens, on the CPU and with WebGPU', { webgpu: true }, async (context) => {
  await withMade((folder) => (rmSync(folder, { recursive: true }), quantize('hybrid', folder)), async (url, folder) => {
    const page = await blank(context, url);
    for (const [backend, most] of [['cpu', 40], ['webgpu', 3]]) {
      const info = await load(page, `${url}model/`, { backend, activations: 'f32' });
      assert.equal(info.backend, backend, info.message);
      assert.ok(info.weightBytes < 10e6, `${info.weightBytes} bytes`);
      assert.deepEqual((await greedy(page, most)).ids, nativeGreedy(folder, 'Once upon', most), backend);
    }
  });
});

inBrowser('a model of 400 MB is loaded with less than 256 MB of memory', { webgpu: true }, async (context) => {
  const vocab = 520_000;
  await withMade((folder) => enlarge('dist/models/xlstm', folder, vocab), async (url, _, bytes) => {
    assert.ok(bytes > 390e6, `${bytes} bytes`);
    const page = await blank(context, url);
    const info = await load(page, `${url}model/`, { backend: 'webgpu', cache: 'off' });
    assert.equal(info.backend, 'webgpu', info.message);
    const { ids, wasmBytes } = await greedy(page, 2);
    assert.deepEqual(ids, nativeContinuation('xlstm', 'Once upon', 2));
    // A module's memory never shrinks: this is its peak.
    assert.ok(wasmBytes < 256e6, `${wasmBytes} bytes of memory for ${bytes} of weights`);
  });
});

inBrowser('the page stays usable after its device was lost', { webgpu: true }, async (context) => {
  const own = await serve('dist', { tamper: grabDevice });
  try {
    const page = await context.newPage();
    await page.addInitScript(() => {
      localStorage.setItem('model', new URL('/models/xlstm/', location.href).href);
      for (const [name, value] of [['backend', 'webgpu'], ['temperature', '0'], ['max-tokens', '2']]) {
        if (localStorage.getItem(`choice.${name}`) === null) localStorage.setItem(`choice.${name}`, value);
      }
    });
    await page.goto(own.url);
    await ready(page, 120_000);
    const said = () => page.locator('article .text').allTextContents();
    const send = async (text) => {
      await page.fill('#input', text);
      await page.keyboard.press('Enter');
      await page.waitForSelector('body[data-state=answering]');
    };
    await page.focus('#input');
    await send('Hello.');
    await ready(page, 120_000);
    const before = await said();
    assert.equal(before.length, 2);
    await page.evaluate(() => {
      const field = document.getElementById('max-tokens');
      field.value = '500';
      field.dispatchEvent(new Event('change'));
    });
    await send('Go on.');
    await page.workers()[0].evaluate(() => self.grabbed.destroy());
    await page.waitForSelector('#alert:not([hidden])');
    await page.waitForFunction(() => document.getElementById('alert-text').textContent.includes('was reloaded'), null, { timeout: 120_000 });
    await ready(page, 120_000);
    await picture(page, 'device-lost');
    assert.deepEqual((await said()).slice(0, 2), before, 'what was said is still there');
    await page.evaluate(() => {
      const field = document.getElementById('max-tokens');
      field.value = '2';
      field.dispatchEvent(new Event('change'));
    });
    await send('And then?');
    await ready(page, 120_000);
    await page.waitForFunction(() => document.getElementById('stats').textContent.includes('reused'));
    const [, reused] = /prompt \d+ \((\d+) reused\)/.exec(await page.textContent('#stats'));
    assert.ok(Number(reused) > 0, 'the conversation continued from the kept state');
  } finally {
    await own.close();
  }
});
