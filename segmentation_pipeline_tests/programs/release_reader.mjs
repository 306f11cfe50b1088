// Read releases with the Node client, as release_reader.py does. The first argument is the client's folder.

import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";

const [, , client, current, stop, listed] = process.argv;
const { DuckDBInstance, version } = createRequire(join(client, "index.js"))("@duckdb/node-api");
const queries = JSON.parse(listed);

async function open() {
  const folder = realpathSync(current);
  const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf-8"));
  const options = { access_mode: "READ_ONLY", threads: "1" };
  const instance = await DuckDBInstance.create(join(folder, "segments.duckdb"), options);
  return { folder, manifest, instance, connection: await instance.connect() };
}

function close(opened) {
  opened.connection.closeSync();
  opened.instance.closeSync();
}

async function query(opened) {
  for (const [text, path] of queries) {
    const expected = String(path.reduce((found, key) => found[key], opened.manifest));
    const answers = (await opened.connection.runAndReadAll(text)).getRowsJson();
    if (JSON.stringify(answers) !== JSON.stringify([[expected]])) {
      throw new Error(JSON.stringify([basename(opened.folder), text, answers, expected]));
    }
  }
  return queries.length;
}

let [count, afterPruning, kept] = [0, 0, await open()];
const seen = new Set();
for (;;) {
  const last = existsSync(stop);
  const opened = await open();
  count += await query(opened);
  close(opened);
  if (!seen.size) console.log("reading");
  seen.add(basename(opened.folder));
  const isPruned = !existsSync(kept.folder);
  if (isPruned || last) {
    afterPruning += isPruned;
    count += await query(kept);
    close(kept);
    if (last) break;
    kept = await open();
  }
}
console.log(JSON.stringify({ version: version(), queries: count, seen: [...seen].sort(), after_pruning: afterPruning }));
