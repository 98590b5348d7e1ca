// Tests conversations as data and as text, without a browser.

import { test } from 'node:test';
import assert from 'node:assert/strict';

const { append, begin, branches, find, isDeleted, merge, messages, path, pick } = await import('../dist/tree.js');
const { fileName, markdown, read, readFile, write } = await import('../dist/exchange.js');

const say = (conversation, parent, role, content, more = {}) => append(conversation, { parent: parent?.id ?? '', role, content, ...more });
const shown = (conversation) => path(conversation).map(({ content }) => content).join(' ');

function talked() {
  const conversation = begin('m');
  const one = say(conversation, undefined, 'user', 'one');
  const two = say(conversation, one, 'assistant', 'two', { model: 'm' });
  const three = say(conversation, two, 'user', 'three');
  const four = say(conversation, three, 'assistant', 'four', { model: 'm', ended: 'stopped' });
  return { conversation, one, two, three, four };
}

test('another answer is a branch, and what followed the first one is still there', () => {
  const { conversation, one, two, three } = talked();
  assert.equal(shown(conversation), 'one two three four');
  const other = say(conversation, one, 'assistant', 'TWO');
  assert.equal(shown(conversation), 'one TWO');
  assert.deepEqual(branches(conversation, one.id).map(({ content }) => content), ['two', 'TWO']);
  pick(conversation, two);
  assert.equal(shown(conversation), 'one two three four');
  say(conversation, two, 'user', 'THREE');
  pick(conversation, other);
  pick(conversation, two);
  assert.equal(shown(conversation), 'one two THREE', 'the branch that was seen last');
  pick(conversation, three);
  assert.equal(shown(conversation), 'one two three four');
  // A question that isn't shown, because it has no answer.
  const five = say(conversation, path(conversation).at(-1), 'user', 'five');
  conversation.picked[five.parent] = '';
  assert.equal(shown(conversation), 'one two three four');
});

test('two tabs keep the messages of both', () => {
  const { conversation: a, two, four } = talked();
  const b = structuredClone(a);
  say(a, four, 'user', 'in A');
  say(b, two, 'user', 'in B');
  Object.assign(b, { title: 'Named', named: 9e12 });
  Object.assign(a, { system: 'Be short.', systemAt: 9e12 });
  for (const merged of [merge(a, b), merge(b, a)]) {
    assert.equal(merged.turns.length, 6);
    assert.equal(new Set(merged.turns.map(({ id }) => id)).size, 6);
    assert.deepEqual([merged.title, merged.system], ['Named', 'Be short.']);
    assert.deepEqual(merge(merged, merged), merged);
  }
  const deleted = { ...a, deleted: 5 };
  assert.ok(isDeleted(merge(deleted, b)) && isDeleted(merge(b, deleted)));
  assert.ok(!isDeleted(merge({ ...a, deleted: 5, restored: 6 }, deleted)));
});

test('exports can be imported again, and so can older formats', () => {
  const { conversation } = talked();
  conversation.system = 'Be kind.';
  const [again] = readFile(write([conversation]));
  assert.deepEqual(again, conversation);
  // The page's format before branches.
  const old = { id: 'a1-b2', title: 'Old', changed: 5000, model: 'files:x', messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content: 'a' }] };
  const migrated = read(old);
  assert.equal(shown(migrated), 'q a');
  assert.deepEqual([migrated.id, migrated.title, migrated.model, migrated.state, migrated.changed], ['a1-b2', 'Old', 'files:x', 'files:x', 5000]);
  assert.equal(path(migrated)[1].model, 'files:x');
  assert.deepEqual(read(old), migrated, 'two tabs that read it agree');
  // Formats of other programs.
  const [foreign] = readFile(JSON.stringify([
    { role: 'system', content: 'S' }, { role: 'user', content: [{ type: 'text', text: 'pa' }, { type: 'text', text: 'rts' }] },
  ]));
  assert.deepEqual(messages(foreign, path(foreign)), [{ role: 'system', content: 'S' }, { role: 'user', content: 'parts' }]);
});

test('files without conversations are refused with a reason, and odd ones do no harm', () => {
  for (const [text, why] of [['{', /not JSON/], ['3', /entry 1 of 1/], ['[]', /no conversation/], ['[{"turns": [{"id": "__proto__"}]}]', /not a conversation/]]) {
    assert.throws(() => readFile(text), why);
  }
  const turn = (id, parent) => ({ id, parent, role: 'user', content: id, at: 1 });
  assert.equal(read({ turns: [turn('a', ''), turn('a', '')] }), undefined, 'two of one id');
  assert.equal(read({ turns: [{ ...turn('a', ''), content: {} }] }), undefined);
  // Cycles and missing parents: everything is still there, and reading it ends.
  const circle = read({ id: '../../etc', turns: [turn('a', 'b'), turn('b', 'a'), turn('c', 'nowhere'), turn('d', '')], picked: { __proto__: 'a', a: 'zz' } });
  assert.doesNotMatch(circle.id, /\//);
  assert.ok(branches(circle, '').length >= 2);
  assert.equal(circle.turns.length, 4);
  assert.ok(path(circle).length <= 4);
});

test('conversations can be searched and exported as text', () => {
  const { conversation } = talked();
  conversation.title = 'Boats & cats: a story/of both?';
  assert.equal(find(conversation, 'CATS boats'), '');
  assert.equal(find(conversation, 'four'), 'four');
  assert.equal(find(conversation, 'five'), undefined);
  conversation.system = 'Be\nkind.';
  assert.equal(markdown(conversation, () => 'M'),
    '# Boats & cats: a story/of both?\n\n> Be\n> kind.\n\n**You:**\n\none\n\n**M:**\n\ntwo\n\n**You:**\n\nthree\n\n**M:**\n\nfour\n');
  assert.equal(fileName(conversation.title, 'md'), 'Boats-cats-a-story-of-both.md');
  assert.equal(fileName('///', 'json'), 'conversation.json');
});
