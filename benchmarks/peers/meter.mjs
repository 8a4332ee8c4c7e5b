// The meter of ../meter.py for workers on Node: the same file, written every 10 ms.
import fs from "node:fs";
import { performance } from "node:perf_hooks";

const HEADER = 32;
const SAMPLE = 16;
const ROOM = 1_000_000;

export const now = () => (performance.timeOrigin + performance.now()) / 1000;

export class Meter {
  constructor(path) {
    this.file = fs.openSync(path, "w+");
    this.count = 0;
    this.first = 0;
    this.last = 0;
    this.samples = [];
    this.written = 0;
    this.flushed = -1;
    setInterval(() => this.flush(), 10).unref();
    process.on("exit", () => this.flush());
  }

  mark(submittedAt) {
    this.count += 1;
    this.last = now();
    this.first ||= this.last;
    if (submittedAt != null && this.written + this.samples.length / 2 < ROOM) {
      this.samples.push(submittedAt, (this.last - submittedAt) * 1000);
    }
  }

  flush() {
    if (this.flushed === this.count) return;
    const samples = Float64Array.from(this.samples);
    fs.writeSync(this.file, Buffer.from(samples.buffer), 0, samples.byteLength, HEADER + this.written * SAMPLE);
    this.written += samples.length / 2;
    this.samples = [];
    const head = Buffer.alloc(HEADER);
    const nanoseconds = (seconds) => BigInt(Math.round(seconds * 1e6)) * 1000n;
    head.writeBigUInt64LE(BigInt(this.count), 0);
    head.writeBigUInt64LE(nanoseconds(this.first), 8);
    head.writeBigUInt64LE(nanoseconds(this.last), 16);
    head.writeBigUInt64LE(BigInt(this.written), 24);
    fs.writeSync(this.file, head, 0, HEADER, 0);
    this.flushed = this.count;
  }
}
