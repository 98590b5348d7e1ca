// The page as people use it, on a wide screen and on a phone, in light and dark mode. Screenshots are saved to `artifacts/`.

import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { picture, ready } from './browser.mjs';
import { inBrowser } from './help.mjs';
import { PHONE, WIDE, act, answered, ask, chatting, files, flaws, fresh, pictures, said, set, shows, titles } from './people.mjs';
import { serve } from './serve.mjs';

inBrowser('page: answers, edits and branches', { viewport: WIDE }, async (context) => {
  const page = await chatting(context, { choices: { temperature: '1', seed: '1', 'max-tokens': '24' } });
  await pictures(page, 'welcome');
  // Clicking an example asks it at once.
  await page.click('.example');
  await answered(page, 1);
  await ask(page, 'And then?');
  const first = await said(page);
  assert.equal(first.length, 4);
  // Another answer to the first question: the old one and what followed it become a branch.
  await set(page, 'seed', '5');
  await page.click('article.assistant .regenerate >> nth=0');
  await answered(page, 1);
  const other = await said(page);
  assert.equal(other.length, 2);
  assert.notEqual(other[1], first[1]);
  assert.equal(await page.textContent('.branches .place'), '2 / 2');
  await page.focus('.branches .before');
  await page.keyboard.press('Enter');
  assert.deepEqual(await said(page), first, 'the later messages are there again');
  assert.equal(await page.evaluate(() => document.activeElement.className.includes('after')), true, 'the keyboard stays at the arrows');
  await page.click('.branches .after');
  assert.deepEqual(await said(page), other);
  await page.click('.branches .before');
  // Edit a question, by keyboard.
  await page.locator('article.user .edit').nth(1).focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.inputValue('.editor textarea'), 'And then?');
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('.editor').count(), 0);
  assert.ok(await page.evaluate(() => document.activeElement.classList.contains('edit')), 'and back to where it came from');
  await page.keyboard.press('Enter');
  await page.fill('.editor textarea', 'What did the cat say?');
  await pictures(page, 'edit');
  await page.keyboard.press('Enter');
  await page.waitForSelector('body[data-state=answering], body[data-state=ready]');
  await ready(page);
  await shows(page, 'article.user:nth-of-type(3) .text', 'cat');
  assert.equal((await said(page)).length, 4);
  assert.deepEqual(await page.locator('.branches .place').allTextContents(), ['1 / 2', '2 / 2']);
  // The model's answer can be edited, without asking the model again.
  await page.locator('article.assistant .edit').nth(1).click();
  await page.fill('.editor textarea', 'It said **meow**.');
  await page.click('.editor .primary');
  assert.equal((await said(page)).at(-1), 'It said meow.');
  assert.match(await page.locator('article.assistant .remark').nth(1).textContent(), /edited/);
  await ask(page, 'Why?');
  assert.equal(await page.locator('article').count(), 6);
  await pictures(page, 'branches');
  // Everything is still there after a reload.
  const before = await said(page);
  await page.reload();
  await ready(page);
  assert.deepEqual(await said(page), before);
  assert.deepEqual(await page.locator('.branches .place').allTextContents(), ['1 / 2', '2 / 2', '2 / 2']);
  assert.deepEqual(page.errors, []);
});

const MARKDOWN = `# A heading

A *paragraph* with \`code\`, a [link](https://example.org/) and <b>HTML</b>.
A second line.

\`\`\`python
def greet(name):
    print(f"Hello, {name}! " + "A line that is longer than a phone is wide, so that it has to scroll by itself.")
\`\`\`

1. One
2. Two
   - nested

| name | value |
| --- | ---: |
| a | 1 |

> Quoted.

- [x] done

<img src=x onerror="globalThis.hacked=1"><script>globalThis.hacked=2</script>
![picture](https://example.org/spy.png) [bad](javascript:globalThis.hacked=3) <a href="javascript:hacked">x</a>`;

inBrowser('page: Markdown is shown safely, and its code copied', { viewport: WIDE, permissions: ['clipboard-read', 'clipboard-write'] }, async (context) => {
  const page = await chatting(context);
  const asked = [];
  page.on('request', (request) => asked.push(request.url()));
  const messages = [{ role: 'user', content: '# not <b>a</b> heading\n  as typed' }, { role: 'assistant', content: MARKDOWN }];
  await page.setInputFiles('#import-file', { name: 'c.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify({ title: 'Markdown', messages })) });
  await page.waitForSelector('.code');
  assert.equal(await page.textContent('article.user .text'), messages[0].content);
  const html = await page.innerHTML('article.assistant .text');
  for (const tag of ['<h1', '<em>', '<code>', '<ol>', '<table>', '<td align="right">', '<blockquote>', '<br>']) assert.ok(html.includes(tag), `${tag} in ${html}`);
  for (const bad of ['<img', '<script', '<b>']) assert.ok(!html.includes(bad), `${bad} in ${html}`);
  const links = await page.locator('article.assistant a').evaluateAll((links) => links.map((link) => link.getAttribute('href')));
  assert.deepEqual(links, ['https://example.org/', 'https://example.org/spy.png', null]);
  assert.match(await page.textContent('article.assistant .text'), /<b>HTML<\/b>/, 'HTML is text');
  assert.equal(await page.getAttribute('article.assistant a[href="https://example.org/"]', 'rel'), 'noopener noreferrer');
  assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
  assert.deepEqual(asked.filter((url) => url.includes('example.org')), [], 'nothing is fetched');
  await page.click('.copy-code');
  await shows(page, '.copy-code .tip', 'Copied');
  await pictures(page, 'markdown');
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def greet\(name\):\n    print.*itself\."\)$/);
  await page.click('article.assistant .copy');
  await shows(page, 'article.assistant .copy .tip', 'Copied');
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), MARKDOWN);
  // Rendered piece by piece, the result is the same, and finished elements aren't replaced.
  const grown = await page.evaluate(async (text) => {
    const { Markdown } = await import('/markdown.js');
    const [element, whole] = [document.createElement('div'), document.createElement('div')];
    const growing = new Markdown(element);
    let first;
    for (let end = 1; end <= text.length; end += 7) {
      growing.show(text.slice(0, end));
      if (end > 20) first ??= element.firstElementChild;
    }
    growing.show(text);
    new Markdown(whole).show(text);
    return { same: element.innerHTML === whole.innerHTML, kept: first === element.firstElementChild };
  }, MARKDOWN);
  assert.deepEqual(grown, { same: true, kept: true });
  assert.deepEqual(page.errors, []);
});

inBrowser('page: conversations are found, named, exported, imported, deleted and restored', { viewport: WIDE, acceptDownloads: true }, async (context) => {
  const page = await chatting(context);
  await ask(page, 'Tell me about a boat.');
  await fresh(page);
  await ask(page, 'Tell me about a <i>kitten</i>.');
  assert.deepEqual(await titles(page), ['Tell me about a <i>kitten</i>.', 'Tell me about a boat.']);
  // Naming.
  await act(page, 1, 'Rename');
  await page.keyboard.type('The boat');
  await page.keyboard.press('Enter');
  assert.deepEqual(await titles(page), ['Tell me about a <i>kitten</i>.', 'The boat']);
  await act(page, 1, 'Rename');
  await page.keyboard.type('Never mind');
  await page.keyboard.press('Escape');
  assert.equal((await titles(page))[1], 'The boat');
  // Search by name and by content.
  await page.fill('#search', 'the BOAT');
  assert.deepEqual(await titles(page), ['The boat']);
  await page.fill('#search', 'kitten about');
  assert.deepEqual(await titles(page), ['Tell me about a <i>kitten</i>.']);
  await page.fill('#search', 'nothing like it');
  assert.equal(await page.textContent('#list-empty'), 'Nothing found.');
  await page.focus('#search');
  await page.keyboard.press('Escape');
  assert.equal((await titles(page)).length, 2);
  // Export.
  const downloaded = async (start) => {
    const [download] = await Promise.all([page.waitForEvent('download'), start()]);
    return { name: download.suggestedFilename(), text: readFileSync(await download.path(), 'utf8') };
  };
  const notes = await downloaded(() => act(page, 1, 'Export as Markdown'));
  assert.equal(notes.name, 'The-boat.md');
  assert.match(notes.text, /^# The boat\n\n\*\*You:\*\*\n\nTell me about a boat\.\n\n\*\*Storyteller, 15M:\*\*\n\n\w/);
  const one = await downloaded(() => act(page, 1, 'Export as JSON'));
  assert.equal(JSON.parse(one.text).conversations.length, 1);
  const all = await downloaded(() => page.click('#export-all'));
  assert.equal(JSON.parse(all.text).conversations.length, 2);
  // Deletion and restoring, at the same place in the list.
  await act(page, 0, 'Delete');
  await page.waitForSelector('#welcome:not([hidden])');
  assert.deepEqual(await titles(page), ['The boat']);
  await pictures(page, 'deleted');
  await page.click('.toast .link');
  await page.waitForSelector('article.assistant');
  assert.equal((await titles(page)).length, 2);
  await page.reload();
  await ready(page);
  assert.equal((await titles(page)).length, 2);
  // Deleted for good once it can't be restored any more.
  await act(page, 0, 'Delete');
  await page.click('.toast .icon');
  await page.waitForFunction(async () => {
    const folder = await (await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet')).getDirectoryHandle('conversations');
    const names = await Array.fromAsync(folder.keys());
    return names.filter((name) => name.endsWith('.json')).length === 1;
  });
  await page.reload();
  await ready(page);
  assert.deepEqual(await titles(page), ['The boat']);
  // Import: existing conversations aren't duplicated.
  const give = (name, text) => page.setInputFiles('#import-file', { name, mimeType: 'application/json', buffer: Buffer.from(text) });
  await give('all.json', all.text);
  await shows(page, '#toasts', 'Imported 2 conversations');
  assert.equal((await titles(page)).length, 2);
  await give('broken.json', '{"conversations": 3}');
  await shows(page, '#alert-text', 'broken.json: entry 1 of 1 is not a conversation');
  await page.click('#alert-close');
  await page.setViewportSize(PHONE);
  await page.click('#menu');
  await picture(page, 'drawer-390-light');
  assert.deepEqual(await flaws(page), []);
  // The drawer closes on a tap next to it.
  await page.mouse.click(370, 400);
  await page.waitForFunction(() => document.getElementById('menu').ariaExpanded === 'false' && !document.getElementById('main').inert);
  assert.deepEqual(page.errors, []);
});

inBrowser('page: the model is chosen, and the old one stays if the new one fails to load', { viewport: WIDE }, async (context) => {
  let broken = true;
  const tamper = (_, response, path) => broken && path === '/models/xlstm/config.json' && (response.writeHead(500).end('no'), true);
  const own = await serve('dist', { tamper });
  try {
    const page = await chatting(context, { url: own.url });
    await ask(page, 'Tell me about a boat.');
    await page.click('#model');
    await pictures(page, 'picker');
    await page.fill('#url', 'what is this');
    await page.keyboard.press('Enter');
    assert.ok(await page.evaluate(() => document.getElementById('picker').open && !document.getElementById('url').checkValidity()));
    await page.fill('#url', 'models/xlstm/');
    // Enter loads.
    await page.keyboard.press('Enter');
    await page.waitForSelector('#alert:not([hidden])');
    await ready(page);
    assert.equal(await page.textContent('#model-name'), 'Storyteller, 15M');
    assert.match(await page.textContent('#alert-text'), /^Storyteller xLSTM, 5M could not be loaded; Storyteller, 15M is still running: .*500/);
    await pictures(page, 'failed');
    await ask(page, 'And then?');
    // Once more, with success; the conversation doesn't switch models by itself.
    await page.click('#model');
    await page.click('#demos button:nth-of-type(2)');
    await page.waitForSelector('#alert:not([hidden])');
    broken = false;
    await page.click('#retry');
    await shows(page, '#model-name', 'xLSTM');
    await ready(page);
    await page.waitForSelector('#ask:not([hidden])');
    assert.match(await page.textContent('#ask-text'), /was with Storyteller, 15M/);
    await pictures(page, 'ask');
    await page.fill('#input', 'Who are you?');
    await page.keyboard.press('Enter');
    assert.equal((await said(page)).length, 4, 'it asks first');
    assert.ok(await page.evaluate(() => document.activeElement.closest('#ask')));
    await page.getByRole('button', { name: 'Continue with Storyteller xLSTM' }).click();
    await answered(page, 3);
    assert.equal((await said(page))[4], 'Who are you?');
    assert.match(await page.textContent('.divider'), /Storyteller xLSTM/);
    // From single files: named after their contents.
    await page.click('#model');
    await page.setInputFiles('#files', files('xlstm'));
    await page.waitForFunction(() => document.getElementById('model-name').textContent === 'xlstm, 10 MB');
    await ready(page);
    await fresh(page);
    await ask(page, 'Tell me about a cake.');
    assert.equal(await page.locator('article.assistant .who').textContent(), 'xlstm, 10 MB');
    // A later visit uses another model: the page says which one this conversation had.
    await page.reload();
    await ready(page);
    assert.match(await page.textContent('#ask-text'), /was with xlstm, 10 MB\. Which/);
    assert.equal(await page.locator('#ask button').first().textContent(), 'Choose the files of xlstm, 10 MB…');
    await page.click('article.assistant .regenerate');
    assert.equal((await said(page)).length, 2);
    await page.setInputFiles('#files', files('xlstm'));
    await page.waitForSelector('#ask', { state: 'hidden' });
    await ready(page);
    await shows(page, '.branches .place', '2 / 2');
    const names = await page.evaluate(async () => {
      const { addressOf, keyOf, nameOf } = await import('/names.js');
      const file = (name, text, path) => Object.defineProperty(new File([text], name), 'webkitRelativePath', { value: path ?? '' });
      const config = file('config.json', '{"model_type": "mamba", "_name_or_path": "/home/me/models/my-mamba/"}');
      const keys = await Promise.all([[config], [file('config.json', '{}', 'folder/config.json')], [file('config.json', '{}', 'models--org--some/snapshots/0/config.json')], [file('my.tar', 'x')],
        [file('config.json', '{"_name_or_path": "org/name"}'), file('model.safetensors', 'a')],
        [file('config.json', '{"_name_or_path": "org/name"}'), file('model.safetensors', 'b')]].map((files) => keyOf(files)));
      const addresses = ['owner/name', 'huggingface.co/owner/name', 'localhost:8000/m/', 'https://x.org/a b', 'javascript:alert(1)', 'models/xlstm/'].map(addressOf);
      return { names: keys.map(nameOf), differ: keys[4] !== keys[5], addresses, hub: nameOf('https://huggingface.co/owner/name/tree/main') };
    });
    assert.deepEqual(names.names, ['my-mamba', 'folder', 'org/some', 'my', 'org/name', 'org/name']);
    assert.ok(names.differ, 'other weights are another model');
    assert.equal(names.hub, 'owner/name');
    assert.deepEqual(names.addresses, ['https://huggingface.co/owner/name', 'https://huggingface.co/owner/name', 'http://localhost:8000/m/',
      undefined, undefined, `${own.url}models/xlstm/`]);
    assert.deepEqual(page.errors, []);
  } finally {
    await own.close();
  }
});

inBrowser('page: a question that is asked while a model is loading waits for it; settings are used', { viewport: WIDE }, async (context) => {
  let held = [];
  const tamper = (_, response, path) => {
    if (!held || path !== '/models/hybrid/config.json') return false;
    held.push(response);
    return true;
  };
  const own = await serve('dist', { tamper });
  try {
    const page = await chatting(context, { url: own.url, wait: false });
    await page.waitForSelector('#status:not([hidden])');
    await page.fill('#input', 'Tell me about a boat.');
    await page.keyboard.press('Enter');
    await shows(page, '#pending', 'Waiting for Storyteller, 15M');
    await pictures(page, 'loading');
    // If loading fails, the question is kept and continues when loading is retried.
    for (const response of held.splice(0)) response.writeHead(500).end('no');
    await shows(page, '#alert-text', 'Storyteller, 15M could not be loaded: ');
    assert.equal(await page.textContent('#pending'), 'This has no answer yet.Try again');
    await page.click('#retry');
    await shows(page, '#pending', 'Waiting for Storyteller, 15M');
    const config = readFileSync('dist/models/hybrid/config.json');
    for (const response of held) response.writeHead(200, { 'content-type': 'application/json' }).end(config);
    held = undefined;
    await answered(page, 1);
    // The line for statistics takes the same space with and without them.
    const heights = await page.evaluate(() => {
      const stats = document.getElementById('stats');
      const full = stats.offsetHeight;
      const text = stats.innerHTML;
      stats.replaceChildren();
      const empty = stats.offsetHeight;
      stats.innerHTML = text.repeat(9);
      return [full, empty, stats.offsetHeight];
    });
    assert.equal(new Set(heights).size, 1, `${heights}`);
    // Settings are passed to the model.
    const sent = await page.evaluate(async () => {
      const { Session } = await import('/kinglet/index.js');
      const chat = Session.prototype.chat;
      globalThis.sent = [];
      Session.prototype.chat = function (messages, { onPrompt: _, ...options }) {
        globalThis.sent.push({ messages, options });
        return chat.call(this, messages, options);
      };
    });
    assert.equal(sent, undefined);
    await page.click('#open-settings');
    await page.fill('#system', 'Be brief.');
    const values = { temperature: 0.5, 'top-k': 7, 'top-p': 0.9, 'min-p': 0.05, 'typical-p': 0.95, 'repetition-penalty': 1.1, 'presence-penalty': 0.2,
      'frequency-penalty': -0.1, 'dry-multiplier': 0.8, 'xtc-probability': 0.5, 'xtc-threshold': 0.1, seed: 9, 'max-tokens': 5, speculate: 4 };
    for (const [id, value] of Object.entries(values)) await page.fill(`#${id}`, String(value));
    await page.fill('#stop-texts', 'THE END\n\\n\\n\\n');
    await page.fill('#top-p', '7');
    await page.keyboard.press('Tab');
    assert.match(await page.textContent('#top-p-wrong'), /The model's own setting is used/);
    await pictures(page, 'settings');
    await page.fill('#top-p', '0.9');
    await page.click('#settings .primary');
    await ask(page, 'And then?');
    const [{ messages, options }] = await page.evaluate(() => globalThis.sent);
    assert.deepEqual(options, { temperature: 0.5, topK: 7, topP: 0.9, minP: 0.05, typicalP: 0.95, repetitionPenalty: 1.1, presencePenalty: 0.2,
      frequencyPenalty: -0.1, dryMultiplier: 0.8, xtcProbability: 0.5, xtcThreshold: 0.1, seed: 9, maxTokens: 5, speculate: 4, stop: ['THE END', '\n\n\n'] });
    assert.deepEqual(messages.map(({ role }) => role), ['system', 'user', 'assistant', 'user']);
    assert.equal(messages[0].content, 'Be brief.');
    await shows(page, '#stats', 'drafts accepted');
    await page.click('#open-settings');
    await page.click('#reset');
    assert.equal(await page.inputValue('#top-k'), '');
    await page.click('#settings .primary');
    // A conversation keeps its instructions, whatever later ones get.
    await fresh(page);
    await page.click('#open-settings');
    await page.fill('#system', '');
    await page.keyboard.press('Tab');
    await page.click('#settings .primary');
    await page.click('#list .open');
    await page.waitForSelector('article');
    assert.equal(await page.inputValue('#system'), 'Be brief.');
    assert.deepEqual(page.errors, []);
  } finally {
    await own.close();
  }
});

inBrowser('page: two tabs agree', { viewport: WIDE }, async (context) => {
  const a = await chatting(context);
  const b = await chatting(context);
  // Each tab has its own conversation; both tabs show both.
  await a.fill('#input', 'In the first tab.');
  await b.fill('#input', 'In the second tab.');
  await Promise.all([a, b].map((page) => page.press('#input', 'Enter')));
  await Promise.all([a, b].map((page) => answered(page, 1)));
  for (const page of [a, b]) {
    await page.waitForFunction(() => document.querySelectorAll('#list li').length === 2);
    assert.deepEqual((await titles(page)).sort(), ['In the first tab.', 'In the second tab.']);
  }
  // The same conversation in both: messages of one tab appear in the other, and nothing is lost.
  await b.locator('#list').getByText('In the first tab.', { exact: true }).click();
  await shows(b, 'article.user', 'first');
  await ready(b);
  await ask(a, 'From A.');
  await answered(b, 2);
  assert.deepEqual(await said(b), await said(a));
  await b.fill('#input', 'From B.');
  await a.fill('#input', 'From A again.');
  await Promise.all([a, b].map((page) => page.press('#input', 'Enter')));
  for (const page of [a, b]) {
    await ready(page);
    await page.waitForFunction(() => document.querySelectorAll('article.assistant').length === 3);
    await shows(page, 'article:nth-last-of-type(2) .place', '/ 2');
  }
  const kept = await a.evaluate(async () => {
    const folder = await (await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet')).getDirectoryHandle('conversations');
    const found = [];
    for await (const [name, handle] of folder) if (name.endsWith('.json')) found.push(JSON.parse(await (await handle.getFile()).text()));
    return found.flatMap(({ turns }) => turns.filter(({ role }) => role === 'user').map(({ content }) => content)).sort();
  });
  assert.deepEqual(kept, ['From A again.', 'From A.', 'From B.', 'In the first tab.', 'In the second tab.']);
  // Naming, deleting and restoring in one tab also applies to the other.
  await a.bringToFront();
  await act(a, 0, 'Rename');
  await a.keyboard.type('Ours');
  await a.keyboard.press('Enter');
  await b.locator('#list').getByText('Ours', { exact: true }).waitFor();
  await act(a, 0, 'Delete');
  await b.waitForSelector('#welcome:not([hidden])');
  await shows(b, '#toasts', 'was deleted in another tab');
  await a.click('.toast .link');
  await b.locator('#list').getByText('Ours', { exact: true }).waitFor();
  assert.equal(await b.locator('#list li').count(), 2);
  // Deleted in one tab while it is answered in the other: after restoring, the answer is complete.
  await a.locator('#list').getByText('Ours', { exact: true }).click();
  await b.locator('#list').getByText('Ours', { exact: true }).click();
  await Promise.all([a, b].map((page) => ready(page)));
  await set(b, 'max-tokens', '120');
  await b.fill('#input', 'A long story, please.');
  await b.press('#input', 'Enter');
  await b.waitForSelector('body[data-state=answering]');
  await a.bringToFront();
  await act(a, 0, 'Delete');
  await a.waitForSelector('#welcome:not([hidden])');
  await b.waitForSelector('#welcome:not([hidden])');
  await a.click('.toast .link');
  await a.waitForFunction(() => document.querySelectorAll('article.assistant').length === 4);
  // Settings too.
  await set(a, 'top-k', '3');
  await b.waitForFunction(() => document.getElementById('top-k').value === '3');
  assert.deepEqual([...a.errors, ...b.errors], []);
});

inBrowser('page: no question is lost, and data of earlier versions is read', { viewport: WIDE }, async (context) => {
  const page = await chatting(context);
  // Saved by a version of the page before branches.
  await page.evaluate(async () => {
    const folder = await (await (await navigator.storage.getDirectory()).getDirectoryHandle('kinglet')).getDirectoryHandle('conversations');
    const model = new URL('models/hybrid/', document.baseURI).href;
    for (const [id, title, text] of [['0a1b-2c', 'Older', 'First?'], ['9.75', 'Oldest', 'Hello?']]) {
      const messages = [{ role: 'user', content: text }, { role: 'assistant', content: 'Yes.' }];
      const writable = await (await folder.getFileHandle(`${id}.json`, { create: true })).createWritable();
      await writable.write(JSON.stringify({ id, title, changed: 5000, model, messages }));
      await writable.close();
    }
    localStorage.setItem('asked', JSON.stringify(['0a1b-2c', 'And then?']));
    // Two more, in conversations without a file: as left by two tabs that were closed at once.
    for (const id of ['x1', 'x2']) {
      const turn = { id: `${id}-t`, parent: '', role: 'user', content: `Question ${id}?`, at: Date.now() };
      localStorage.setItem(`asked.${id}`, JSON.stringify({ turn, title: '', system: '', model: '' }));
    }
  });
  await page.reload();
  await ready(page);
  assert.deepEqual((await titles(page)).sort(), ['Older', 'Oldest', 'Question x1?', 'Question x2?']);
  await page.locator('#list').getByText('Older', { exact: true }).click();
  await shows(page, 'article.assistant .text', 'Yes.');
  await ready(page);
  assert.equal(await page.inputValue('#input'), 'And then?');
  assert.equal(await page.locator('article').count(), 2);
  // Asking again leaves one question, even if it was edited.
  await ask(page, 'And after that?');
  assert.equal(await page.locator('.branches').count(), 0);
  await page.locator('#list').getByText('Question x1?', { exact: true }).click();
  await page.waitForFunction(() => document.getElementById('input').value === 'Question x1?');
  // Unsent text stays in its conversation.
  await page.fill('#input', 'Something else');
  await page.locator('#list').getByText('Question x2?', { exact: true }).click();
  await page.waitForFunction(() => document.getElementById('input').value === 'Question x2?');
  await page.locator('#list').getByText('Question x1?', { exact: true }).click();
  await page.waitForFunction(() => document.getElementById('input').value === 'Something else');
  await shows(page, 'article.user .text', 'Question x1?');
  await ready(page);
  await page.click('#pending .link');
  await answered(page, 1);
  assert.equal(await page.inputValue('#input'), 'Something else');
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith('asked'))), [], 'all are in files');
  assert.deepEqual(page.errors, []);
});
