// The commands of adapter.py for contenders on Node. Their packages are found from the working directory.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import readline from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Meter, now } from "./meter.mjs";

export const load = (name) => import(pathToFileURL(createRequire(`${process.cwd()}/`).resolve(name)));

async function singles(adapter, { n, every_ms: every }) {
  let due = performance.now();
  for (let i = 0; i < n; i += 1) {
    if (every == null) {
      await adapter.submitOne({ i });
      continue;
    }
    due += every;
    await sleep(Math.max(0, due - performance.now()));
    await adapter.submitOne({ i, t: now() });
  }
}

async function bulk(adapter, { n, size, stamp }) {
  const extra = stamp ? { t: now() } : {};
  for (let first = 0; first < n; first += size) {
    const count = Math.min(size, n - first);
    await adapter.submitMany(Array.from({ length: count }, (_, i) => ({ i: first + i, ...extra })));
  }
}

async function obey(adapter) {
  await adapter.open();
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const began = performance.now();
    await (order.do === "singles" ? singles : bulk)(adapter, order);
    process.stdout.write(`${(performance.now() - began) / 1000}\n`);
  }
  process.exit(0);
}

export async function run(Adapter) {
  const [command, dsn, profile, meter] = process.argv.slice(2);
  const adapter = new Adapter(dsn);
  if (command === "install") {
    await adapter.install();
    process.exit(0);
  } else if (command === "work") {
    process.on("SIGTERM", () => process.exit(0));
    await adapter.work(profile, new Meter(meter));
  } else {
    await obey(adapter);
  }
}
