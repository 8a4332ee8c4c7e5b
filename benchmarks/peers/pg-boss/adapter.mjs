// pg-boss: a handler that takes a batch at once, woken by LISTEN; by default it polls every two seconds.
import { load, run } from "../adapter.mjs";

const { PgBoss } = await load("pg-boss");

const BEST = { batchSize: 2000, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5, notifyPollingIntervalSeconds: 0.5 };

class Boss {
  constructor(dsn) {
    this.options = { connectionString: dsn, useListenNotify: true };
  }

  async start() {
    this.boss = new PgBoss(this.options);
    this.boss.on("error", console.error);
    await this.boss.start();
  }

  async install() {
    await this.start();
    await this.boss.createQueue("noop", { notify: true });
    await this.boss.stop({ graceful: false });
  }

  async work(profile, meter) {
    await this.start();
    await this.boss.work("noop", profile === "best" ? BEST : {}, async (jobs) => {
      for (const job of jobs) meter.mark(job.data.t);
    });
    await new Promise(() => {});
  }

  open() {
    return this.start();
  }

  submitOne(payload) {
    return this.boss.send("noop", payload);
  }

  submitMany(payloads) {
    return this.boss.insert("noop", payloads.map((data) => ({ data })));
  }
}

await run(Boss);
