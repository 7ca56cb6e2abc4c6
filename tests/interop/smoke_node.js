// The smoke test through ioredis, and a shorter round through node-redis in RESP3.
//   NODE_PATH=.../node_modules node smoke_node.js HOST:PORT      (empties the server)
'use strict';
const assert = require('node:assert/strict');
const Redis = require('ioredis');
const { createClient } = require('redis');

const at = process.argv[2];
if (!at) {
  console.log('usage: smoke_node.js HOST:PORT');
  process.exit(2);
}
const host = at.slice(0, at.lastIndexOf(':'));
const port = Number(at.slice(at.lastIndexOf(':') + 1));
let passed = 0;
let failed = 0;
let skipped = 0;

function same(name, got, want) {
  try {
    assert.deepEqual(got, want);
    passed += 1;
    console.log(`ok      ${name}`);
  } catch {
    failed += 1;
    console.log(`FAILED  ${name}: ${JSON.stringify(got)}, expected ${JSON.stringify(want)}`);
  }
}

async function refused(name, text, promise) {
  let got;
  try {
    got = await promise;
  } catch (e) {
    same(name, e.message.slice(0, text.length), text);
    return;
  }
  same(name, got, `an error: ${text}`);
}

// Waits for a state with a deadline.
async function until(what, check) {
  const end = Date.now() + 5000;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`${what}: not within 5 s`);
    await new Promise((r) => setTimeout(r, 5));
  }
}

async function ioredis() {
  const r = new Redis({ host, port, lazyConnect: true, retryStrategy: () => null });
  await r.connect();
  await r.flushall();
  same('ping', await r.ping(), 'PONG');
  same('set and get', [await r.set('k', 'v'), await r.get('k')], ['OK', 'v']);
  same('set nx', await r.set('k', 'w', 'NX'), null);
  same('buffers', await r.set('bin', Buffer.from([0, 255, 13, 10])).then(() => r.getBuffer('bin')),
    Buffer.from([0, 255, 13, 10]));
  same('mset, mget', [await r.mset('a', 1, 'b', 2), await r.mget('a', 'none', 'b')],
    ['OK', ['1', null, '2']]);
  same('counters', [await r.incr('a'), await r.decrby('a', 5), await r.incrbyfloat('b', 0.5)],
    [2, -3, '2.5']);
  same('append, strlen', [await r.append('s', 'hello'), await r.strlen('s')], [5, 5]);
  same('bitmap', [await r.setbit('bm', 9, 1), await r.bitcount('bm')], [0, 1]);
  same('exists, type, del', [await r.exists('a', 'b', 'no'), await r.type('a'), await r.del('a', 'b')],
    [2, 'string', 2]);
  same('hash', [await r.hset('h', { f: 'v', n: '1' }), await r.hgetall('h')], [2, { f: 'v', n: '1' }]);
  same('hash counter', [await r.hincrby('h', 'n', 4), await r.hdel('h', 'f'), await r.hlen('h')], [5, 1, 1]);
  let fieldTimeouts = true;
  await r.call('HTTL', 'none', 'FIELDS', '1', 'f').catch((e) => {
    fieldTimeouts = !/unknown command/.test(e.message);
  });
  if (fieldTimeouts) {
    same('hash field time-out', [await r.call('HEXPIRE', 'h', '100', 'FIELDS', '1', 'n'),
      await r.call('HTTL', 'h', 'FIELDS', '2', 'n', 'none')], [[1], [100, -2]]);
    same('hash field persist', await r.call('HPERSIST', 'h', 'FIELDS', '1', 'n'), [1]);
  } else {
    skipped += 1;
    console.log('skipped hash field time-outs: this server has no HEXPIRE');
  }
  same('list', [await r.rpush('l', 'a', 'b', 'c'), await r.lrange('l', 0, -1)], [3, ['a', 'b', 'c']]);
  same('list move, pop', [await r.lmove('l', 'l2', 'LEFT', 'RIGHT'), await r.rpop('l'), await r.llen('l')],
    ['a', 'c', 1]);
  same('set', [await r.sadd('s1', 1, 2, 3), await r.sadd('s2', 3, 4), await r.sinter('s1', 's2'),
    await r.scard('s1')],
    [3, 2, ['3'], 3]);
  same('sorted set', [await r.zadd('z', 1, 'a', 2.5, 'b'), await r.zrange('z', 0, -1, 'WITHSCORES'),
    await r.zincrby('z', 10, 'a')], [2, ['a', '1', 'b', '2.5'], '11']);
  same('sorted set ranges', [await r.zrangebyscore('z', '(2', '+inf'), await r.zpopmin('z')], [['b', 'a'],
    ['b', '2.5']]);
  same('geo', [await r.geoadd('g', 13.361389, 38.115556, 'Palermo', 15.087269, 37.502669, 'Catania'),
    await r.geodist('g', 'Palermo', 'Catania', 'km')], [2, '166.2742']);
  same('stream', [await r.xadd('x', '1-1', 'f', 'v'), await r.xlen('x'), await r.xrange('x', '-', '+')],
    ['1-1', 1, [['1-1', ['f', 'v']]]]);
  same('stream group', [await r.xgroup('CREATE', 'x', 'grp', '0'),
    await r.xreadgroup('GROUP', 'grp', 'me', 'COUNT', 5, 'STREAMS', 'x', '>'), await r.xpending('x', 'grp'),
    await r.xack('x', 'grp', '1-1')],
  ['OK', [['x', [['1-1', ['f', 'v']]]]], [1, '1-1', '1-1', [['me', '1']]], 1]);
  await r.set('e', 'v', 'PX', 20);
  await until('expiry', async () => (await r.get('e')) === null);
  same('expiry', [await r.ttl('e'), await r.expire('k', 100), await r.persist('k'), await r.ttl('k')],
    [-2, 1, 1, -1]);
  const pipe = r.pipeline();
  for (let i = 0; i < 1000; i += 1) pipe.set(`scan:${i}`, i);
  same('pipeline of 1000', (await pipe.exec()).every(([e, v]) => e === null && v === 'OK'), true);
  const keys = new Set();
  for await (const part of r.scanStream({ match: 'scan:*', count: 100 })) part.forEach((k) => keys.add(k));
  same('scan', keys.size, 1000);
  same('multi', await r.multi().set('m', 1).incr('m').exec(), [[null, 'OK'], [null, 2]]);
  const other = r.duplicate();
  await other.connect();
  await r.watch('m');
  await other.set('m', 'other');
  same('watch', await r.multi().set('m', 'mine').exec(), null);
  same('script', await r.eval('return {KEYS[1], ARGV[1], 7}', 1, 'k', 'x'), ['k', 'x', 7]);
  r.defineCommand('bump', { numberOfKeys: 1, lua: 'return redis.call("INCRBY", KEYS[1], ARGV[1])' });
  same('script by hash', [await r.bump('n', 5), await r.bump('n', 5)], [5, 10]);
  const blocked = other.blpop('q', 5);
  same('blocking pop', await Promise.all([blocked, r.rpush('q', 'late')]).then((x) => x[0]), ['q', 'late']);
  const sub = r.duplicate();
  await sub.connect();
  const got = [];
  sub.on('message', (channel, text) => got.push([channel, text]));
  sub.on('pmessage', (pattern, channel, text) => got.push([pattern, channel, text]));
  same('subscribe', [await sub.subscribe('ch'), await sub.psubscribe('p*')], [1, 2]);
  same('publish', [await r.publish('ch', 'hi'), await r.publish('pat', 'yo')], [1, 1]);
  await until('messages', async () => got.length === 2);
  same('messages', got, [['ch', 'hi'], ['p*', 'pat', 'yo']]);
  same('unsubscribe', [await sub.unsubscribe('ch'), await sub.punsubscribe('p*'), await sub.ping()],
    [1, 0, 'PONG']);
  await refused('wrong type', 'WRONGTYPE Operation against a key holding the wrong kind of value',
    r.lpush('s1', 1));
  await refused('wrong arity', "ERR wrong number of arguments for 'get' command", r.call('GET'));
  await refused('unknown command', 'ERR unknown command', r.call('NOSUCH', 'a'));
  same('info', /redis_version:/.test(await r.info('server')), true);
  sub.disconnect();
  other.disconnect();
  r.disconnect();
}

async function nodeRedis() {
  const c = createClient({ socket: { host, port, reconnectStrategy: false }, RESP: 3 });
  c.on('error', () => {});
  await c.connect();
  same('node-redis set and get', [await c.set('k', 'v'), await c.get('k')], ['OK', 'v']);
  same('node-redis hash', [await c.hSet('nh', { a: '1' }), { ...(await c.hGetAll('nh')) }], [1, { a: '1' }]);
  same('node-redis sorted set', [await c.zAdd('nz', [{ score: 1.5, value: 'm' }]), await c.zScore('nz', 'm'),
    await c.zRangeWithScores('nz', 0, -1)], [1, 1.5, [{ value: 'm', score: 1.5 }]]);
  same('node-redis set', [...(await c.sAdd('ns', ['a', 'b']).then(() => c.sMembers('ns')))].sort(), ['a',
    'b']);
  same('node-redis multi', await c.multi().set('t', '1').incr('t').exec(), ['OK', 2]);
  same('node-redis script', await c.eval('return {1, false, ARGV[1]}', { arguments: ['x'] }), [1, null, 'x']);
  const seen = [];
  const sub = c.duplicate();
  sub.on('error', () => {});
  await sub.connect();
  await sub.subscribe('nch', (text) => seen.push(text));
  await c.publish('nch', 'hi');
  await until('a message', async () => seen.length === 1);
  same('node-redis pub/sub', seen, ['hi']);
  sub.destroy();
  same('flush', [await c.flushAll(), await c.dbSize()], ['OK', 0]);
  c.destroy();
}

const limit = setTimeout(() => {
  console.log('FAILED  no end within 60 s');
  process.exit(1);
}, 60000);
ioredis()
  .then(nodeRedis)
  .catch((e) => {
    failed += 1;
    console.log(`FAILED  ${e.stack}`);
  })
  .finally(() => {
    clearTimeout(limit);
    console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`);
    process.exit(failed ? 1 : 0);
  });
