// A consumer with the Node client: what read_on.py is, which tells why. The client's folder is the first argument.

import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";

const [, , client, current, stop, asked] = process.argv;
const { DuckDBInstance, version } = createRequire(join(client, "index.js"))("@duckdb/node-api");
const questions = JSON.parse(asked);

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

async function ask(opened) {
  for (const [question, place] of questions) {
    const told = String(place.reduce((found, key) => found[key], opened.manifest));
    const answers = (await opened.connection.runAndReadAll(question)).getRowsJson();
    if (JSON.stringify(answers) !== JSON.stringify([[told]])) {
      throw new Error(JSON.stringify([basename(opened.folder), question, answers, told]));
    }
  }
  return questions.length;
}

let [queries, outlived, kept] = [0, 0, await open()];
const seen = new Set();
for (;;) {
  const last = existsSync(stop);
  const opened = await open();
  queries += await ask(opened);
  close(opened);
  if (!seen.size) console.log("reading");
  seen.add(basename(opened.folder));
  const gone = !existsSync(kept.folder);
  if (gone || last) {
    outlived += gone;
    queries += await ask(kept);
    close(kept);
    if (last) break;
    kept = await open();
  }
}
console.log(JSON.stringify({ version: version(), queries, seen: [...seen].sort(), outlived }));
