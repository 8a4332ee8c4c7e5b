// graphile-worker: local queue and batched completion are what its documents recommend for throughput.
import { load, run } from "../adapter.mjs";

const { run: startWorker, makeWorkerUtils, Logger } = await load("graphile-worker");
const logger = new Logger(() => () => {});

const BEST = {
  concurrentJobs: 2000,
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
  localQueue: { size: 2000 },
};

class Graphile {
  constructor(dsn) {
    this.connection = { connectionString: dsn, logger };
  }

  async install() {
    const utils = await makeWorkerUtils(this.connection);
    await utils.migrate();
    await utils.release();
  }

  async work(profile, meter) {
    const taskList = { noop: (payload) => meter.mark(payload.t) };
    const preset = { worker: { connectionString: this.connection.connectionString, logger, ...(profile === "best" ? BEST : {}) } };
    const runner = await startWorker({ preset, taskList, noHandleSignals: true });
    await runner.promise;
  }

  async open() {
    this.utils = await makeWorkerUtils(this.connection);
  }

  submitOne(payload) {
    return this.utils.addJob("noop", payload);
  }

  submitMany(payloads) {
    return this.utils.addJobs(payloads.map((payload) => ({ identifier: "noop", payload })));
  }
}

await run(Graphile);
