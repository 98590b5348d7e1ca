// Tests the package and the page in headless Chromium: `npm test`, after the build. Arguments select tests whose names contain one of them.
//
// KINGLET names the native program, which must give the same greedy tokens; CHROMIUM names the browser.

import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { blank, picture, ready } from './browser.mjs';
import { ASK, chat, grabDevice, inBrowser, load, nativeContinuation, nativeTokens, runTests, server, withModel } from './help.mjs';
import { serve } from './serve.mjs';

inBrowser('greedy tokens are those of the native program, for both demo models', {}, async (context) => {
  const page = await blank(context, server.url);
  for (const [model, bound] of [['hybrid', 110e6], ['xlstm', 60e6]]) {
    const info = await load(page, `/models/${model}/`);
    assert.equal(info.backend, 'cpu', info.message);
    await page.evaluate(() => (globalThis.session = undefined));
    const answer = await chat(page, 200);
    assert.deepEqual(answer.ids, nativeTokens(model, 200));
    assert.equal(answer.reusedTokens, 0);
    const again = await chat(page, 200);
    assert.deepEqual([again.ids, again.text, again.reusedTokens], [answer.ids, answer.text, answer.promptTokens]);
    const { wasmBytes } = await page.evaluate(() => model.stats());
    assert.ok(wasmBytes < bound, `${wasmBytes} bytes of memory`);
  }
});

inBrowser('tokens stream, and a stopped answer continues elsewhere', {}, async (context) => {
  const page = await blank(context, server.url);
  await load(page, '/models/hybrid/');
  const result = await page.evaluate(async (ask) => {
    const session = await model.session();
    const whole = await session.chat([{ role: 'user', content: ask }], { temperature: 0 }).answer;
    const seen = [];
    const stream = session.chat([{ role: 'user', content: ask }], { temperature: 0 });
    for await (const token of stream) {
      seen.push(token.id);
      if (seen.length === 3) break;
    }
    const left = await stream.answer;
    const abort = new AbortController();
    const other = session.chat([{ role: 'user', content: ask }], { temperature: 0, signal: abort.signal });
    abort.abort();
    const aborted = await other.answer;
    const seeded = [];
    for (const seed of [7, 7, 8]) seeded.push((await session.chat([{ role: 'user', content: ask }], { seed, temperature: 1, maxTokens: 24 }).answer).text);
    return { whole, seen, left, aborted, seeded };
  }, ASK);
  assert.deepEqual(result.seen, result.whole.ids.slice(0, 3));
  assert.equal(result.left.reason, 'stopped');
  assert.ok(result.left.ids.length < result.whole.ids.length);
  assert.deepEqual(result.left.ids, result.whole.ids.slice(0, result.left.ids.length));
  assert.equal(result.aborted.reason, 'stopped');
  assert.equal(result.seeded[0], result.seeded[1]);
  assert.notEqual(result.seeded[0], result.seeded[2]);
});

inBrowser('snapshots, forks and saved sessions continue where they were', {}, async (context) => {
  const page = await blank(context, server.url);
  await load(page, '/models/hybrid/');
  const result = await page.evaluate(async (ask) => {
    const say = (session, messages, most = 30) => session.chat(messages, { temperature: 0, maxTokens: most }).answer;
    const session = await model.session();
    const first = [{ role: 'user', content: ask }];
    const one = await say(session, first);
    const messages = [...first, { role: 'assistant', content: one.text }, { role: 'user', content: 'And then?' }];
    const snapshot = await session.snapshot();
    const fork = await session.fork();
    const saved = await session.save();
    const two = await say(session, messages);
    const forked = await say(fork, messages);
    await session.restore(snapshot);
    const position = (await session.stats()).tokens;
    const restored = await say(session, messages);
    const url = new URL('/models/hybrid/', location.href).href;
    model.dispose();
    globalThis.model = await kinglet.Model.load(url);
    const loaded = await model.restoreSession(saved);
    const later = await say(loaded, messages);
    const damaged = saved.slice(0);
    new Uint8Array(damaged)[damaged.byteLength >> 1] ^= 1;
    const refused = await caught(model.restoreSession(damaged));
    const disposed = await loaded.dispose().then(() => caught(loaded.save()));
    return { one, two, forked, restored, later, position, refused, disposed };
  }, ASK);
  assert.equal(result.position, result.one.position);
  for (const other of ['forked', 'restored', 'later']) assert.deepEqual(result[other].ids, result.two.ids, other);
  assert.ok(result.later.reusedTokens >= result.one.position, 'what was saved need not be computed');
  assert.equal(result.refused.code, 'saved-state');
  assert.equal(result.disposed.code, 'disposed');
});

inBrowser('models can also be loaded from files, an archive and handles', {}, async (context) => {
  const page = await blank(context, server.url);
  const result = await page.evaluate(async () => {
    const names = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'chat_template.jinja', 'model.safetensors'];
    const files = await Promise.all(names.map(async (name) => new File([await (await fetch(`/models/xlstm/${name}`)).blob()], name)));
    const octal = (value, digits) => value.toString(8).padStart(digits, '0');
    const parts = [];
    for (const file of files) {
      const header = new Uint8Array(512);
      const put = (at, text) => header.set(new TextEncoder().encode(text), at);
      put(0, `xlstm/${file.name}`);
      put(124, `${octal(file.size, 11)}\0`);
      put(156, '0');
      put(257, 'ustar\x0000');
      parts.push(header, file, new Uint8Array((512 - (file.size % 512)) % 512));
    }
    const archive = new File([...parts, new Uint8Array(1024)], 'xlstm.tar');
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('mine', { create: true });
    for (const file of files) {
      const writable = await (await root.getFileHandle(file.name, { create: true })).createWritable();
      await writable.write(file);
      await writable.close();
    }
    const texts = [];
    for (const source of [files, archive, root]) {
      const model = await kinglet.Model.load(source);
      const session = await model.session();
      texts.push((await session.generate('Once upon a time', { temperature: 0, maxTokens: 12 }).answer).text);
      model.dispose();
    }
    const lacking = await caught(kinglet.Model.load(files.slice(0, 5)));
    const empty = await caught(kinglet.Model.load(new File(['nothing'], 'x.tar')));
    return { texts, lacking, empty };
  });
  assert.ok(result.texts[0].length > 10);
  assert.deepEqual(new Set(result.texts).size, 1);
  assert.equal(result.lacking.code, 'not-found');
  assert.match(result.lacking.message, /model\.safetensors/);
  assert.equal(result.empty.code, 'file');
});

inBrowser('broken models give errors that say what is wrong', {}, async (context) => {
  await withModel({}, async (url, folder) => {
    const page = await blank(context, url);
    const weights = join(folder, 'model.safetensors');
    const whole = readFileSync(weights);
    const config = readFileSync(join(folder, 'config.json'), 'utf8');
    const broken = async (code, pattern) => {
      const error = await load(page, url, { cache: 'off' });
      assert.equal(error.code, code, error.message);
      assert.match(error.message, pattern);
      assert.doesNotMatch(error.message, /kinglet-files/);
    };
    truncateSync(weights, 100_000);
    await broken('weights', /model\.safetensors|ends/);
    writeFileSync(weights, Buffer.concat([Buffer.alloc(8, 0xff), whole.subarray(8)]));
    await broken('weights', /header/);
    writeFileSync(weights, whole);
    writeFileSync(join(folder, 'config.json'), config.replace('"xlstm"', '"no-such-family"'));
    await broken('config', /no-such-family/);
    writeFileSync(join(folder, 'config.json'), '{');
    await broken('config', /config\.json|line 1/);
    writeFileSync(join(folder, 'config.json'), config);
    writeFileSync(join(folder, 'tokenizer.json'), '{}');
    await broken('text', /tokenizer\.json/);
    rmSync(join(folder, 'tokenizer.json'));
    await broken('not-found', /tokenizer\.json/);
    const nowhere = await load(page, 'http://127.0.0.1:9/nothing/');
    assert.equal(nowhere.code, 'network');
  });
});

inBrowser('a download is kept, resumed and repaired', {}, async (context) => {
  const asked = [];
  let breakAt = 1_500_000;
  let offline = false;
  const tamper = (request, response, path) => {
    if (offline && !path.startsWith('/kinglet/')) return response.destroy(), true;
    if (path !== '/model.safetensors') return false;
    if (request.method === 'GET') asked.push(request.headers.range ?? 'all');
    if (request.method !== 'GET' || breakAt === 0) return false;
    const end = response.end.bind(response);
    let sent = 0;
    const write = response.write.bind(response);
    response.write = (chunk, ...rest) => {
      sent += chunk.length;
      if (sent > breakAt) return response.destroy(), false;
      return write(chunk, ...rest);
    };
    response.end = end;
    return false;
  };
  await withModel({ tamper }, async (url) => {
    const page = await blank(context, url);
    const failed = await load(page, url);
    assert.equal(failed.code, 'network', JSON.stringify(failed));
    // It is unknown how much has arrived when a connection breaks: at first it may be less than a block.
    assert.ok(asked.slice(1).some((range) => /^bytes=\d{7}-$/.test(range)), `it is resumed: ${asked}`);
    breakAt = 0;
    asked.length = 0;
    const loaded = await load(page, url);
    assert.equal(loaded.backend, 'cpu', loaded.message);
    assert.equal(asked.length, 1);
    assert.match(asked[0], /^bytes=\d+-$/);
    await page.evaluate(() => (globalThis.session = undefined));
    assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
    asked.length = 0;
    assert.equal((await load(page, url)).phases.download, undefined);
    assert.deepEqual(asked, [], 'nothing is loaded again');
    // A flipped bit.
    await page.evaluate(async () => {
      globalThis.model.dispose();
      const models = await (await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet')).getDirectoryHandle('models');
      for await (const folder of models.values()) {
        const handle = await folder.getFileHandle('model.safetensors');
        const writable = await handle.createWritable({ keepExistingData: true });
        await writable.write({ type: 'write', position: 5_500_000, data: new Uint8Array(16) });
        await writable.close();
      }
    });
    const repaired = await load(page, url);
    assert.match(repaired.notices.join(), /damaged/);
    assert.deepEqual(asked, ['bytes=5242880-']);
    await page.evaluate(() => (globalThis.session = undefined));
    assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
    // Offline, the model works as before, with the same files present and missing.
    offline = true;
    const kept = await load(page, url);
    assert.equal(kept.backend, 'cpu', kept.message);
    await page.evaluate(() => (globalThis.session = undefined));
    assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
    const stored = await page.evaluate(async () => {
      const [entry] = await kinglet.storage.list();
      await kinglet.storage.remove(entry.url);
      return { entry, after: await kinglet.storage.list() };
    });
    assert.equal(stored.entry.url, url);
    assert.ok(stored.entry.bytes > 10e6);
    assert.deepEqual(stored.after, []);
  });
});

for (const ranges of [true, false]) {
  inBrowser(`without free space, a model is used without being kept${ranges ? '' : ', from a server without ranges'}`, {}, async (context) => {
    await withModel({ ranges }, async (url) => {
      const page = await blank(context, url);
      const session = await context.newCDPSession(page);
      await session.send('Storage.overrideQuotaForOrigin', { origin: new URL(url).origin, quotaSize: 3_000_000 });
      const refused = await load(page, url, { cache: 'require' });
      assert.equal(refused.code, 'quota', JSON.stringify(refused));
      assert.match(refused.message, /no room/);
      const loaded = await load(page, url);
      assert.match(loaded.notices?.join() ?? loaded.message, /no room/);
      assert.deepEqual((await chat(page, 20)).ids, nativeTokens('xlstm', 20));
    });
  });
}

inBrowser('loading can be stopped', {}, async (context) => {
  const tamper = (request, response, path) => path === '/model.safetensors' && request.method === 'GET'
    && (response.writeHead(200, { 'content-length': 10_000_000 }), response.write(Buffer.alloc(1000)), true);
  await withModel({ tamper }, async (url) => {
    const page = await blank(context, url);
    const error = await page.evaluate(async (url) => {
      const abort = new AbortController();
      setTimeout(() => abort.abort(), 500);
      return await caught(kinglet.Model.load(url, { signal: abort.signal }));
    }, url);
    assert.equal(error.code, 'aborted');
  });
});

inBrowser('without WebGPU the CPU is used, and requiring WebGPU is an error', {}, async (context) => {
  const page = await blank(context, server.url);
  assert.equal((await load(page, '/models/xlstm/', { backend: 'webgpu' })).code, 'no-webgpu');
  assert.equal((await load(page, '/models/xlstm/')).backend, 'cpu');
});

// Compiling the kernels takes an emulated device some twenty seconds, so one device is used for everything that one can show. Steps are slow, too:
// use few tokens and short prompts.
inBrowser('WebGPU gives the same tokens, with streamed weights; a lost device is reported, and a saved session continues', { webgpu: true }, async (context) => {
  const own = await serve('dist', { tamper: grabDevice });
  try {
    const page = await blank(context, own.url);
    let last;
    for (const [model, most] of [['hybrid', 3], ['xlstm', 6]]) {
      const info = await load(page, `/models/${model}/`, { backend: 'webgpu' });
      assert.equal(info.backend, 'webgpu', info.message);
      last = await page.evaluate(async (maxTokens) => {
        globalThis.session = await model.session();
        const { ids, position } = await session.generate('Once upon', { temperature: 0, maxTokens }).answer;
        return { ids, position, ...await model.stats() };
      }, most);
      assert.deepEqual(last.ids, nativeContinuation(model, 'Once upon', most));
      assert.ok(last.wasmBytes < 40e6, `${last.wasmBytes} bytes of memory for ${last.weightBytes} of weights`);
    }
    await page.evaluate(async () => {
      globalThis.saved = await session.save();
      globalThis.lost = caught(session.generate('Once upon a time', { temperature: 0, maxTokens: 500 }).answer);
    });
    await page.workers().at(-1).evaluate(() => self.grabbed.destroy());
    const lost = await page.evaluate(() => lost);
    assert.equal(lost.code, 'device-lost', lost.message);
    assert.equal((await page.evaluate(() => caught(session.generate('Once', { maxTokens: 1 }).answer))).code, 'device-lost');
    assert.equal((await load(page, '/models/xlstm/')).backend, 'cpu', 'an emulated device gains nothing');
    const after = await page.evaluate(async () => {
      const session = await model.restoreSession(saved);
      return { tokens: (await session.stats()).tokens, ids: (await session.generate('Once upon', { temperature: 0, maxTokens: 6 }).answer).ids };
    });
    assert.deepEqual([after.tokens, after.ids], [last.position, last.ids]);
  } finally {
    await own.close();
  }
});

inBrowser('the page chats, stops, regenerates and survives a reload', { viewport: { width: 1100, height: 720 } }, async (context) => {
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  await page.goto(server.url);
  await ready(page);
  const set = (id, value) => page.evaluate(([id, value]) => {
    const field = document.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event('change'));
  }, [id, value]);
  const text = () => page.locator('article.assistant .text').last().textContent();
  const stats = () => page.textContent('#stats');
  const answered = async () => {
    await page.waitForSelector('body[data-state=answering]');
    await ready(page);
    await page.waitForFunction(() => document.getElementById('stats').textContent.includes('tokens/s'));
  };
  await set('temperature', '0');
  await page.keyboard.type(ASK);
  await page.focus('#input');
  await page.fill('#input', ASK);
  await page.keyboard.press('Enter');
  await answered();
  const first = await text();
  assert.match(first, /^Once upon a time/);
  assert.match(await stats(), /tokens\/s.*memory \d+/);
  await picture(page, 'answer');
  // From the snapshot: no part of the prompt is computed again.
  await page.click('article.assistant .regenerate');
  await answered();
  assert.equal(await text(), first);
  assert.match(await stats(), /prompt 16 \(16 reused\)/);
  // Everything has been saved when it is ready for the next question.
  await page.reload();
  await ready(page);
  assert.equal(await text(), first);
  await page.click('article.assistant .regenerate');
  await answered();
  assert.equal(await text(), first);
  assert.match(await stats(), /prompt 16 \(16 reused\)/, 'the state outlives the page');
  // The second turn continues from the first.
  await page.fill('#input', 'What did the dog do next?');
  await page.keyboard.press('Enter');
  await answered();
  const [, total, reused] = /prompt (\d+) \((\d+) reused\)/.exec(await stats());
  assert.ok(Number(reused) > 16 && Number(total) - Number(reused) < 30, await stats());
  // Stopped by Escape; the partial answer stays.
  await page.click('#new');
  await page.waitForFunction(() => document.querySelectorAll('article').length === 0);
  await ready(page);
  await page.fill('#input', ASK);
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent.length ?? 0) > 20);
  await page.keyboard.press('Escape');
  await ready(page);
  // If the last token came first, there was nothing to stop.
  assert.match(await page.textContent('article.assistant .remark'), /stopped|^$/);
  assert.ok(first.startsWith(await text()));
  assert.equal(await page.locator('#list li').count(), 2);
  // A page that is closed in the middle of an answer still has the question.
  await page.fill('#input', 'And then?');
  await page.keyboard.press('Enter');
  await page.waitForSelector('body[data-state=answering]');
  await page.reload();
  await ready(page);
  assert.ok(await page.locator('article').count() >= 2);
  if (await page.locator('article').count() === 2) assert.equal(await page.inputValue('#input'), 'And then?');
  // Another model, on a phone in dark mode.
  await page.setViewportSize({ width: 375, height: 700 });
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out on a phone');
  await page.click('#model');
  await picture(page, 'picker-phone-dark');
  await page.click('#demos button:nth-of-type(2)');
  await page.waitForFunction(() => document.getElementById('stats').textContent.includes('simd128'));
  await ready(page);
  await page.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' });
  await page.click('#menu');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'new', 'the keyboard goes where the menu came');
  await picture(page, 'menu-phone-dark');
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'menu', 'and back');
  // Every control has a name.
  const nameless = await page.evaluate(() => [...document.querySelectorAll('button, input, select, textarea')].filter((element) =>
    !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).map((element) => element.outerHTML));
  assert.deepEqual(nameless, []);
  // An invalid address is reported.
  await page.keyboard.press('Escape');
  await page.click('#model');
  await page.fill('#url', `${server.url}nothing/`);
  await page.click('#load-url');
  await page.waitForSelector('#alert:not([hidden])[data-code=not-found]');
  assert.deepEqual(errors, []);
});

inBrowser('a question is kept even if the page is closed before it is saved', {}, async (context) => {
  const page = await context.newPage();
  // Files are never written here.
  await page.addInitScript(() => {
    FileSystemFileHandle.prototype.createWritable = () => new Promise(() => {});
  });
  for (const question of ['Who is there?', 'And now?']) {
    await page.goto(server.url);
    await ready(page);
    await page.fill('#input', question);
    await page.keyboard.press('Enter');
    await page.waitForSelector('body[data-state=answering]');
    await page.reload();
    await ready(page);
    assert.equal(await page.inputValue('#input'), question);
    assert.equal(await page.locator('article').count(), 0);
  }
});

await import('./tree.mjs');
await import('./options.mjs');
await import('./page.mjs');
await import('./more.mjs');
await import('./threads.mjs');
runTests();
test.after?.(() => server.close());
