// Options of generation, and a model's small files: everything must work like in the native program.

import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { blank } from './browser.mjs';
import { ASK, chat, inBrowser, load, native, nativeDone, server, withModel } from './help.mjs';
import { FILES } from './people.mjs';

/** The native program's names for options. */
const FLAGS = { maxTokens: 'max-tokens', speculate: 'draft-tokens' };

/** The native program's answer with the same options. */
function nativeAnswer(folder, options) {
  const flags = Object.entries(options).flatMap(([name, value]) => {
    const flag = FLAGS[name] ?? name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const values = value === true ? [`--${flag}`] : [value].flat().map((value) => `--${flag}=${value}`);
    return name === 'speculate' ? ['--speculate=ngram', ...values] : values;
  });
  const args = ['chat', '--model', folder, '--backend', 'cpu', '--threads', '1', '--json', ...flags];
  const { ids, text, stop_reason: reason } = nativeDone(args, `${ASK}\n`);
  return { ids, text, reason: reason.replace('_', '-') };
}

/** An answer in the page, to compare with the native one. */
async function answer(page, options) {
  const { ids, text, reason, speculation } = await page.evaluate(async ({ ask, options }) => {
    globalThis.session ??= await model.session();
    return await session.chat([{ role: 'user', content: ask }], options).answer;
  }, { ask: ASK, options });
  return [{ ids, text, reason }, speculation];
}

inBrowser('every way of sampling and of ending an answer gives the native answer', {}, async (context) => {
  const page = await blank(context, server.url);
  await load(page, '/models/xlstm/');
  const drawn = { temperature: 1, topK: 0, topP: 1, seed: 7, maxTokens: 20 };
  const greedy = { temperature: 0, maxTokens: 40 };
  const whole = { temperature: 0, maxTokens: 165 };
  const cases = [
    [drawn],
    [drawn, { temperature: 1.7 }],
    [drawn, { topK: 2 }],
    [drawn, { topP: 0.4 }],
    [drawn, { minP: 0.3 }],
    [drawn, { typicalP: 0.2 }],
    [drawn, { xtcProbability: 1, xtcThreshold: 0.02 }],
    [greedy],
    [greedy, { repetitionPenalty: 1.5 }],
    [greedy, { presencePenalty: 3 }],
    [greedy, { frequencyPenalty: 3 }],
    [greedy, { stop: ['no such text', ' upon a'] }],
    // The complete answer ends by itself.
    [whole],
    [whole, { dryMultiplier: 5 }],
    [whole, { ignoreEos: true }],
  ];
  const plain = new Map();
  for (const [base, more] of cases) {
    const [found] = await answer(page, { ...base, ...more });
    assert.deepEqual(found, nativeAnswer('../../models/demo/xlstm', { ...base, ...more }), JSON.stringify(more));
    if (!more) plain.set(base, found);
    else assert.notDeepEqual(found.ids, plain.get(base).ids, `${JSON.stringify(more)} changes something`);
  }
});

inBrowser('drafts only change the number of steps', {}, async (context) => {
  const page = await blank(context, server.url);
  await load(page, '/models/hybrid/');
  const repeat = (options) => page.evaluate(async (options) => {
    const session = await model.session();
    const prompt = 'The cat sat on the mat. '.repeat(4);
    return await session.generate(prompt, { temperature: 0, maxTokens: 40, ...options }).answer;
  }, options);
  for (const drawn of [{}, { temperature: 0.7, seed: 3 }]) {
    const [plain, guessed] = [await repeat(drawn), await repeat({ ...drawn, speculate: 6 })];
    assert.deepEqual([guessed.ids, guessed.text, guessed.reason], [plain.ids, plain.text, plain.reason]);
    assert.equal(plain.speculation, null);
    const { steps, drafted, accepted } = guessed.speculation;
    assert.ok(accepted > 0 && accepted <= drafted && steps < guessed.ids.length, JSON.stringify(guessed.speculation));
  }
});

inBrowser('an answer ends where generation_config.json says, or when the context is full', {}, async (context) => {
  await withModel({}, async (url, folder) => {
    const page = await blank(context, url);
    const path = join(folder, 'generation_config.json');
    const config = JSON.parse(readFileSync(path, 'utf8'));
    writeFileSync(path, JSON.stringify({ ...config, stop_strings: ['never said', ' there was'], max_new_tokens: 9 }));
    await load(page, url, { cache: 'off' });
    const greedy = { temperature: 0, seed: 1 };
    const [ended] = await answer(page, { ...greedy, maxTokens: 40 });
    assert.equal(ended.reason, 'stop-string');
    assert.ok(!ended.text.includes('there was') && ended.text.startsWith('Once upon a time'), ended.text);
    assert.deepEqual(ended, nativeAnswer(folder, { ...greedy, maxTokens: 40 }));
    for (const options of [{ ...greedy, ignoreEos: true }, { ...greedy, stop: [' time'] }]) {
      assert.deepEqual((await answer(page, options))[0], nativeAnswer(folder, options), JSON.stringify(options));
    }
    // The context is counted like in the native program.
    writeFileSync(path, JSON.stringify(config));
    await page.evaluate(() => (globalThis.session = undefined));
    await load(page, url, { cache: 'off', contextLimit: 40 });
    const [full] = await answer(page, { ...greedy, ignoreEos: true });
    assert.equal(full.reason, 'context-full');
    assert.deepEqual(full, nativeAnswer(folder, { ...greedy, ignoreEos: true, context: 40 }));
  });
});

/** Removes all special tokens but the first from a model's `tokenizer.json`, and returns them. */
function takeSpecial(folder) {
  const path = join(folder, 'tokenizer.json');
  const tokenizer = JSON.parse(readFileSync(path, 'utf8'));
  const [first, ...others] = tokenizer.added_tokens;
  writeFileSync(path, JSON.stringify({ ...tokenizer, added_tokens: [first] }));
  const config = join(folder, 'tokenizer_config.json');
  const { added_tokens_decoder: _, ...rest } = JSON.parse(readFileSync(config, 'utf8'));
  writeFileSync(config, JSON.stringify(rest));
  return others;
}

/** The native program's prompt for the question. */
function nativePrompt(model) {
  return JSON.parse(execFileSync(native, ['tokenize', '--model', `../../models/demo/${model}`, '--chat', '--json', ASK], { encoding: 'utf8' })).ids;
}

/** The page's prompt for the question. */
async function prompt(page, options) {
  await page.evaluate(() => (globalThis.session = undefined));
  const { promptTokens } = await chat(page, 1, options);
  return await page.evaluate(async (length) => [...(await session.tokens())].slice(0, length), promptTokens);
}

inBrowser('special tokens may be in files next to tokenizer.json', {}, async (context) => {
  await withModel({}, async (url, folder) => {
    const special = takeSpecial(folder);
    assert.equal(special.length, 4);
    const page = await blank(context, url);
    const expected = nativePrompt('xlstm');
    await load(page, url, { cache: 'off' });
    assert.ok((await prompt(page)).length > expected.length, 'they are pieces of text now');
    const companions = {
      'special_tokens_map.json': { additional_special_tokens: special.map(({ content }) => content) },
      'added_tokens.json': Object.fromEntries(special.map(({ content, id }) => [content, id])),
    };
    for (const [name, value] of Object.entries(companions)) {
      writeFileSync(join(folder, name), JSON.stringify(value));
      await load(page, url, { cache: 'off' });
      assert.deepEqual(await prompt(page), expected, name);
      rmSync(join(folder, name));
    }
  });
});

const RAG = 'rag.jinja';
const TEMPLATE = "{{ 'Read this. ' ~ messages[0].content }}";

inBrowser('templates in a separate folder are loaded from folders and from the hub', {}, async (context) => {
  const page = await blank(context, server.url);
  const expected = nativePrompt('xlstm');
  const named = async (source) => {
    const { missing, tokens } = await page.evaluate(async ({ source, ask }) => {
      globalThis.model = await kinglet.Model.load(source ?? globalThis.source, { cache: 'off' });
      const session = await model.session();
      const { message: missing } = await caught(session.chat([{ role: 'user', content: ask }], { template: 'none' }).answer);
      return { missing, tokens: [...await model.tokenize(`Read this. ${ask}`)] };
    }, { source, ask: ASK });
    assert.match(missing, /none.*default.*rag/s);
    assert.deepEqual(await prompt(page, { template: 'rag' }), tokens);
    assert.deepEqual(await prompt(page), expected, 'the usual one is the usual one');
    await page.evaluate(() => model.dispose());
  };
  // Files of a folder, as an input for folders provides them, with others in subfolders that don't belong to the model.
  await page.evaluate(async ({ names, template, rag }) => {
    const at = (path, contents) =>
      Object.defineProperty(new File([contents], path.split('/').at(-1)), 'webkitRelativePath', { value: path });
    globalThis.files = await Promise.all(names.map(async (name) => at(`m/${name}`, await (await fetch(`/models/xlstm/${name}`)).blob())));
    globalThis.source = [
      at('m/a/special_tokens_map.json', '{"additional_special_tokens": ["Tell"]}'), at('m/a/additional_chat_templates/no.jinja', 'no'),
      at('m/a/config.json', '{}'), at(`m/additional_chat_templates/${rag}`, template), ...files,
    ];
  }, { names: FILES, template: TEMPLATE, rag: RAG });
  await named();
  // A folder's handle.
  await page.evaluate(async ({ template, rag }) => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('mine', { create: true });
    const write = async (folder, name, contents) => {
      const writable = await (await folder.getFileHandle(name, { create: true })).createWritable();
      await writable.write(contents);
      await writable.close();
    };
    for (const file of files) await write(root, file.name, file);
    await write(await root.getDirectoryHandle('additional_chat_templates', { create: true }), rag, template);
    await write(await root.getDirectoryHandle('a', { create: true }), 'added_tokens.json', '{"Tell": 3}');
    globalThis.source = root;
  }, { template: TEMPLATE, rag: RAG });
  await named();
  // The hub lists its folders.
  const asked = [];
  await context.route('https://huggingface.co/**', async (route) => {
    const { pathname } = new URL(route.request().url());
    asked.push(pathname);
    const name = pathname.replace('/owner/name/resolve/main/', '');
    const headers = { 'access-control-allow-origin': '*' };
    if (pathname === '/api/models/owner/name/tree/main/additional_chat_templates') {
      const entries = [{ type: 'file', path: `additional_chat_templates/${RAG}` }, { type: 'file', path: '../no.jinja' }, { type: 'directory' }];
      await route.fulfill({ headers, json: entries });
    } else if (name === `additional_chat_templates/${RAG}`) await route.fulfill({ headers, body: TEMPLATE });
    else if (FILES.includes(name)) await route.fulfill({ headers, body: readFileSync(join('dist/models/xlstm', name)) });
    else await route.fulfill({ headers, status: 404 });
  });
  await named('https://huggingface.co/owner/name');
  assert.ok(asked.includes('/owner/name/resolve/main/added_tokens.json') && asked.includes('/owner/name/resolve/main/special_tokens_map.json'));
  assert.equal(asked.some((path) => path.includes('no.jinja')), false);
});
