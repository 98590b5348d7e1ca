// Shared by the page's tests: actions of users, and checks of what they see.

import { join } from 'node:path';
import assert from 'node:assert/strict';
import { picture, ready } from './browser.mjs';
import { server } from './help.mjs';

export const WIDE = { width: 1280, height: 800 };
export const PHONE = { width: 390, height: 844 };
export const FILES = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'chat_template.jinja', 'model.safetensors'];
export const files = (model) => FILES.map((name) => join('dist/models', model, name));

/** A page that is ready for input, with short answers that are the same each time. */
export async function chatting(context, { url = server.url, choices = {}, wait = true } = {}) {
  const page = await context.newPage();
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(error.message));
  await page.addInitScript((choices) => {
    for (const [name, value] of Object.entries(choices)) {
      if (localStorage.getItem(`choice.${name}`) === null) localStorage.setItem(`choice.${name}`, value);
    }
  }, { temperature: '0', 'max-tokens': '8', ...choices });
  await page.emulateMedia({ reducedMotion: 'reduce' });
  await page.goto(url);
  if (wait) await ready(page);
  return page;
}

export const said = (page) => page.locator('article .text').allTextContents();
export const titles = (page) => page.locator('#list .title').allTextContents();
export const shows = (page, selector, text) =>
  page.waitForFunction(([selector, text]) => document.querySelector(selector)?.textContent.includes(text), [selector, text]);

export async function ask(page, text) {
  const before = await page.locator('article.assistant').count();
  await page.fill('#input', text);
  await page.keyboard.press('Enter');
  await answered(page, before + 1);
}

export async function answered(page, count) {
  await page.waitForFunction((count) => document.querySelectorAll('article.assistant').length === count, count).catch(async (error) => {
    throw new Error(`${error.message}: ${await page.textContent('body')}`);
  });
  await ready(page);
}

export async function set(page, id, value) {
  await page.evaluate(([id, value]) => {
    const field = document.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event('change'));
  }, [id, value]);
}

/** Starts a new conversation. */
export async function fresh(page) {
  await page.click('#new');
  await page.waitForSelector('#welcome:not([hidden])');
  await ready(page);
}

export async function act(page, row, action) {
  await page.locator('#list li').nth(row).hover();
  await page.locator('#list li .more').nth(row).click();
  await page.getByRole('menuitem', { name: action }).click();
}

/** Texts with too little contrast (WCAG 2, AA), and elements that overflow to the side. */
export function flaws(page) {
  return page.evaluate(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (color) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = rgba(getComputedStyle(at).backgroundColor);
        if (color[3] === 255) return color;
      }
      return [255, 255, 255];
    };
    const found = [];
    const top = document.querySelector('dialog[open]') ?? document.body;
    for (const element of top.querySelectorAll('*')) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      if (!own || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || element.closest(':disabled, .hidden, option, [inert]')) continue;
      const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < 4.5) found.push(`${element.tagName}.${element.className} ${contrast.toFixed(2)} “${element.textContent.slice(0, 30)}”`);
    }
    if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
    for (const element of top.querySelectorAll('button, input, select, textarea')) {
      const { left, right, width } = element.getBoundingClientRect();
      if (width > 0 && element.checkVisibility({ visibilityProperty: true }) && (left < -1 || right > innerWidth + 1)) found.push(`#${element.id}.${element.className} sticks out`);
      if (element.checkVisibility() && !(element.ariaLabel || element.textContent.trim() || element.labels?.length)) found.push(`${element.outerHTML} has no name`);
    }
    return found;
  });
}

/** Screenshots at both widths, in light and dark mode; fails if there are flaws. */
export async function pictures(page, name) {
  for (const [size, viewport] of [['1280', WIDE], ['390', PHONE]]) {
    await page.setViewportSize(viewport);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      await picture(page, `${name}-${size}-${colorScheme}`);
      assert.deepEqual(await flaws(page), [], `${name}, ${size}, ${colorScheme}`);
    }
  }
  await page.setViewportSize(WIDE);
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' });
}
