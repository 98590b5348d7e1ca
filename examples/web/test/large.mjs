// Makes a checkpoint of hundreds of megabytes that answers like the demo model: its vocabulary has additional tokens that are never chosen.

import { closeSync, copyFileSync, openSync, readFileSync, readdirSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Tensors with a row for each token. */
const LONGER = ['backbone.embeddings.weight', 'lm_head.weight'];

/** Writes the xLSTM of `from` with `vocab` tokens into the existing folder `to`. Returns the size of its weights in bytes. */
export function enlarge(from, to, vocab) {
  for (const name of readdirSync(from)) if (!/^(config\.json|model\.safetensors)$/.test(name)) copyFileSync(join(from, name), join(to, name));
  const config = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8'));
  writeFileSync(join(to, 'config.json'), JSON.stringify({ ...config, vocab_size: vocab }));
  const whole = readFileSync(join(from, 'model.safetensors'));
  const length = Number(whole.readBigUInt64LE(0));
  const { __metadata__, ...tensors } = JSON.parse(whole.subarray(8, 8 + length).toString());
  const header = { __metadata__ };
  const pieces = [];
  let offset = 0;
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(tensors)) {
    const bytes = whole.subarray(8 + length + begin, 8 + length + end);
    const row = (end - begin) / shape[0];
    const added = LONGER.includes(name) ? vocab - shape[0] : 0;
    header[name] = { dtype, shape: [shape[0] + added, ...shape.slice(1)], data_offsets: [offset, offset + bytes.length + added * row] };
    offset += bytes.length + added * row;
    // As probable as the padding, which a trained model never generates.
    pieces.push({ bytes, row: bytes.subarray(0, row), added });
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(to, 'model.safetensors'), 'w');
  const put = (buffer) => {
    for (let at = 0; at < buffer.length;) at += writeSync(file, buffer, at);
  };
  put(size);
  put(Buffer.from(text));
  for (const { bytes, row, added } of pieces) {
    put(bytes);
    const block = Buffer.alloc(Math.min(added, 4096) * row.length, row);
    for (let left = added * row.length; left > 0; left -= block.length) put(left < block.length ? block.subarray(0, left) : block);
  }
  closeSync(file);
  return offset;
}
