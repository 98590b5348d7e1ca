// Shared by the tests: a browser, a page, and calls of the package in it.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** WebGPU emulated by the CPU: correct, but slow. */
const SOFTWARE = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan,WebGPU', '--use-vulkan=swiftshader'];

const executablePath = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

/** A browser with an empty profile; `webgpu: false`: without WebGPU. */
export async function browser({ webgpu = false, ...options } = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'kinglet-web-'));
  const args = [...FLAGS, ...(webgpu ? SOFTWARE : ['--disable-features=WebGPU'])];
  const context = await chromium.launchPersistentContext(profile, { executablePath, args, ...options });
  return {
    context,
    close: async () => {
      await context.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Saves a screenshot to look at, in a folder that git ignores. */
export async function picture(page, name) {
  mkdirSync('artifacts', { recursive: true });
  await page.screenshot({ path: join('artifacts', `${name}.png`) });
}

/** An empty page of the server, to call the package in. */
export async function blank(context, url) {
  const page = await context.newPage();
  await page.goto(`${url}style.css`);
  await page.evaluate(async () => {
    globalThis.kinglet = await import('/kinglet/index.js');
    globalThis.caught = (promise) => promise.then(
      () => { throw new Error('it should have failed'); },
      (error) => ({ code: error.code, message: error.message }),
    );
  });
  return page;
}

/** Waits until the page accepts input. */
export async function ready(page, timeout = 60_000) {
  await page.waitForSelector('body[data-state=ready]', { timeout });
}
