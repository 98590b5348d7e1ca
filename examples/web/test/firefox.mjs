// Tests the package in headless Firefox, over Marionette: `npm run test:firefox`, after the build. FIREFOX names the browser; WebGPU uses the
// (software) adapter that Vulkan finds (VK_ICD_FILENAMES).

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { nativeContinuation } from './help.mjs';
import { serve } from './serve.mjs';

const PORT = 2829;
/** WebGPU is on by default on other systems; here it must be enabled. */
const PREFERENCES = {
  'dom.webgpu.enabled': true, 'gfx.webgpu.ignore-blocklist': true, 'dom.webgpu.allow-in-parent': true, 'marionette.port': PORT,
  'datareporting.policy.dataSubmissionEnabled': false, 'browser.shell.checkDefaultBrowser': false,
};
const executable = process.env.FIREFOX ?? ['/usr/bin/firefox-esr', '/usr/bin/firefox'].find(existsSync);

/** A connection that speaks Marionette: messages are `LENGTH:JSON`. */
async function marionette() {
  let socket;
  for (let attempt = 0; !socket; attempt++) {
    socket = await new Promise((resolve) => {
      const tried = connect(PORT, '127.0.0.1', () => resolve(tried));
      tried.once('error', () => resolve(undefined));
    });
    assert.ok(socket || attempt < 100, 'Firefox does not answer');
    if (!socket) await new Promise((resolve) => setTimeout(resolve, 300));
  }
  let buffer = Buffer.alloc(0);
  const waiting = [];
  let greeted = false;
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (;;) {
      const colon = buffer.indexOf(':');
      const length = Number(buffer.subarray(0, colon));
      if (colon < 0 || buffer.length < colon + 1 + length) return;
      const message = JSON.parse(buffer.subarray(colon + 1, colon + 1 + length));
      buffer = buffer.subarray(colon + 1 + length);
      if (greeted) waiting.shift()?.(message);
      greeted = true;
    }
  });
  let next = 1;
  return {
    call: (command, parameters) => new Promise((resolve, reject) => {
      waiting.push(([, , error, value]) => (error ? reject(new Error(error.message)) : resolve(value?.value ?? value)));
      const text = JSON.stringify([0, next++, command, parameters]);
      socket.write(`${Buffer.byteLength(text)}:${text}`);
    }),
    close: () => socket.destroy(),
  };
}

test('Firefox gives the native tokens: on the CPU, with threads, with WebGPU', { timeout: 240_000 }, async () => {
  assert.ok(executable, 'there is no Firefox: FIREFOX can name one');
  const own = await serve('dist', { isolated: true });
  const profile = mkdtempSync(join(tmpdir(), 'kinglet-firefox-'));
  const lines = Object.entries(PREFERENCES).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`);
  writeFileSync(join(profile, 'user.js'), lines.join(''));
  const process_ = spawn(executable, ['--headless', '--marionette', '--no-remote', '--profile', profile], { stdio: 'ignore' });
  const gone = new Promise((resolve) => process_.once('exit', resolve));
  let browser;
  try {
    browser = await marionette();
    await browser.call('WebDriver:NewSession', { capabilities: { alwaysMatch: {} } });
    await browser.call('WebDriver:SetTimeouts', { script: 120_000 });
    await browser.call('WebDriver:Navigate', { url: `${own.url}style.css` });
    const expected = nativeContinuation('xlstm', 'Once upon', 12);
    for (const options of [{ backend: 'cpu', threads: 1 }, { backend: 'cpu', threads: 2 }, { backend: 'webgpu' }]) {
      const found = JSON.parse(await browser.call('WebDriver:ExecuteAsyncScript', {
        args: [options],
        script: `const [options, done] = arguments;
          (async () => {
            const { Model } = await import('/kinglet/index.js');
            const model = await Model.load('/models/xlstm/', options);
            const session = await model.session();
            const { ids, tokensPerSecond } = await session.generate('Once upon', { temperature: 0, maxTokens: 12 }).answer;
            model.dispose();
            return { ids, tokensPerSecond, ...model.info };
          })().catch((error) => ({ failed: String(error) })).then((value) => done(JSON.stringify(value)));`,
      }));
      assert.equal(found.failed, undefined);
      console.log(`# ${found.description}: ${found.tokensPerSecond.toFixed(1)} tokens/s`);
      assert.equal(found.backend, options.backend);
      assert.equal(found.threads, options.threads ?? 1, found.notices.join());
      assert.deepEqual(found.ids, expected);
    }
  } finally {
    browser?.close();
    process_.kill();
    await gone;
    await own.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
});
test.after?.(() => import('./help.mjs').then(({ server }) => server.close()));
