// BullMQ: real jobs with retries, delays, priorities, flows and results; and redlock on the same server.
//   jobs.js HOST:PORT   (empties the server)
'use strict';
const assert = require('assert');
const IORedis = require('ioredis');
const { Queue, Worker, QueueEvents, FlowProducer, Job } = require('bullmq');
const Redlock = require('redlock').default || require('redlock');

const [host, port] = process.argv[2].split(':');
const where = { host, port: Number(port), maxRetriesPerRequest: null };
let passed = 0;
let failed = 0;

async function check(name, f) {
  try {
    await f();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (e) {
    failed += 1;
    console.log(`FAILED  ${name}: ${e.stack}`);
  }
}

async function jobs() {
  const queue = new Queue('work', { connection: where });
  const events = new QueueEvents('work', { connection: where });
  const tries = {};
  const order = [];
  const worker = new Worker(
    'work',
    async (job) => {
      if (job.name === 'add') return job.data.x + job.data.y;
      if (job.name === 'third') {
        tries[job.id] = (tries[job.id] || 0) + 1;
        if (tries[job.id] < 3) throw new Error(`try ${tries[job.id]}`);
        return tries[job.id];
      }
      if (job.name === 'fails') throw new Error('as told');
      if (job.name === 'when') return Date.now();
      if (job.name === 'progress') {
        await job.updateProgress(50);
        await job.log('half');
        return 'done';
      }
      if (job.name === 'order') order.push(job.data.n);
      if (job.name === 'sum') {
        const parts = await job.getChildrenValues();
        return Object.values(parts).reduce((a, b) => a + b, 0);
      }
      return null;
    },
    { connection: where, concurrency: 4 },
  );
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady(), worker.waitUntilReady()]);
  const done = (job) => job.waitUntilFinished(events, 20000);

  await check('a job and its result', async () => {
    assert.strictEqual(await done(await queue.add('add', { x: 2, y: 3 })), 5);
  });
  await check('200 jobs in one go', async () => {
    const many = await queue.addBulk([...Array(200).keys()].map((n) => ({ name: 'add', data: { x: n, y: n } })));
    const got = await Promise.all(many.map(done));
    assert.deepStrictEqual(got, [...Array(200).keys()].map((n) => 2 * n));
  });
  await check('a job that fails twice and is tried again', async () => {
    const job = await queue.add('third', {}, { attempts: 5, backoff: { type: 'exponential', delay: 50 } });
    assert.strictEqual(await done(job), 3);
    assert.strictEqual((await Job.fromId(queue, job.id)).attemptsMade, 3);
  });
  await check('a job that fails hands its error on', async () => {
    await assert.rejects(done(await queue.add('fails', {})), /as told/);
    assert.strictEqual(await queue.getFailedCount(), 1);
  });
  await check('a delayed job is not early', async () => {
    const asked = Date.now();
    const ran = await done(await queue.add('when', {}, { delay: 700 }));
    assert.ok(ran - asked >= 690, `after ${ran - asked} ms`);
  });
  await check('progress and log', async () => {
    const job = await queue.add('progress', {});
    const seen = new Promise((ok) => events.once('progress', (e) => ok(e.data)));
    assert.strictEqual(await done(job), 'done');
    assert.strictEqual(await seen, 50);
    assert.deepStrictEqual((await queue.getJobLogs(job.id)).logs, ['half']);
  });
  await check('a flow: a parent waits for its children', async () => {
    const flow = new FlowProducer({ connection: where });
    const tree = await flow.add({
      name: 'sum',
      queueName: 'work',
      children: [1, 2, 3].map((n) => ({ name: 'add', data: { x: n, y: n }, queueName: 'work' })),
    });
    assert.strictEqual(await done(tree.job), 12);
    await flow.close();
  });
  await check('priorities', async () => {
    const other = new Queue('slow', { connection: where });
    for (const n of [3, 1, 2]) await other.add('order', { n }, { priority: n });
    const taken = [];
    const one = new Worker('slow', async (job) => taken.push(job.data.n), { connection: where, concurrency: 1 });
    for (let i = 0; taken.length < 3 && i < 500; i += 1) await new Promise((ok) => setTimeout(ok, 10));
    assert.deepStrictEqual(taken, [1, 2, 3]);
    await one.close();
    await other.close();
  });
  await check('a job that repeats', async () => {
    const repeats = new Queue('tick', { connection: where });
    let ticks = 0;
    const one = new Worker('tick', async () => { ticks += 1; }, { connection: where });
    await repeats.upsertJobScheduler('every', { every: 100 }, { name: 'tick' });
    for (let i = 0; ticks < 3 && i < 500; i += 1) await new Promise((ok) => setTimeout(ok, 10));
    assert.ok(ticks >= 3);
    await repeats.removeJobScheduler('every');
    await one.close();
    await repeats.close();
  });
  await check('pause, resume, drain, clean, obliterate', async () => {
    await queue.pause();
    await queue.add('add', { x: 1, y: 1 });
    await queue.drain();
    await queue.resume();
    await queue.clean(0, 1000, 'completed');
    assert.strictEqual(await queue.getCompletedCount(), 0);
    await queue.obliterate({ force: true });
  });
  await worker.close();
  await events.close();
  await queue.close();
}

async function locks() {
  const clients = [0, 1, 2, 3].map(() => new IORedis(where));
  await check('redlock keeps others out', async () => {
    let inside = 0;
    await clients[0].set('n', 0);
    await Promise.all(
      clients.map(async (client) => {
        const redlock = new Redlock([client], { retryCount: 2000, retryDelay: 3, retryJitter: 3 });
        for (let i = 0; i < 20; i += 1) {
          const lock = await redlock.lock('lock', 5000);
          inside += 1;
          assert.strictEqual(inside, 1);
          const n = Number(await client.get('n'));
          await client.set('n', n + 1);
          inside -= 1;
          await lock.unlock();
        }
      }),
    );
    assert.strictEqual(await clients[0].get('n'), '80');
  });
  await check('redlock extends and expires', async () => {
    const redlock = new Redlock([clients[0]], { retryCount: 0 });
    const lock = await redlock.lock('short', 100);
    await assert.rejects(redlock.lock('short', 100));
    await lock.extend(5000);
    assert.ok((await clients[0].pttl('short')) > 1000);
    await lock.unlock();
    assert.strictEqual(await clients[0].exists('short'), 0);
  });
  clients.forEach((c) => c.disconnect());
}

async function main() {
  const admin = new IORedis(where);
  await admin.flushall();
  await jobs();
  await locks();
  admin.disconnect();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

process.on('unhandledRejection', (e) => { console.log(`FAILED  unhandled: ${e.stack}`); process.exit(1); });
main();
