// Runs the checks of test/compat with @platformatic/kafka.
'use strict'
const assert = require('node:assert/strict')
const { Admin, Consumer, Producer, stringSerializers, stringDeserializers } = require('@platformatic/kafka')
const { LEN, PARTITIONS, bootstrap, corpus, say, run, skip, restart, whole, until, version } = require('./check.cjs')

const maxWaitTime = 100
const base = { clientId: 'compat', bootstrapBrokers: [bootstrap], retries: 20, retryDelay: 200 }
const admin = new Admin(base)
const create = topic => admin.createTopics({ topics: [topic], partitions: PARTITIONS, replicas: 1 })
const messages = (topic, from = 0, limit = LEN) => corpus.slice(from, limit).map(m => ({ topic, ...m }))
const producer = (options = {}) => new Producer({ ...base, serializers: stringSerializers, ...options })
const plain = m => ({ key: m.key, value: m.value, headers: { n: m.headers.get('n') } })

async function produce (topic, options = {}, from = 0, limit = LEN) {
  const p = producer(options)
  await p.send({ messages: messages(topic, from, limit), acks: -1 })
  await p.close()
}

// member joins a group and gathers what it gets.
async function member (groupId, topic, options = {}) {
  const c = new Consumer({ ...base, groupId, deserializers: stringDeserializers, maxWaitTime, sessionTimeout: 6000, heartbeatInterval: 500, autocommit: 50, ...options })
  const stream = await c.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest' })
  const m = { records: [], consumer: c, stop: async () => { await stream.close(); await c.close(true) } }
  stream.on('data', message => m.records.push(plain(message)))
  stream.on('error', () => {}) // the check sees what is missing
  return m
}

async function read (topic, isolationLevel, want = LEN) {
  const m = await member(`read-${topic}-${isolationLevel}`, topic, { isolationLevel })
  await until(`${topic}: ${want} records`, () => m.records.length >= want)
  await m.stop()
  assert.equal(m.records.length, want)
  if (want === LEN) whole(m.records)
}

// committed is the sum of a group's offsets.
async function committed (groupId) {
  const groups = await admin.listConsumerGroupOffsets({ groups: [groupId] })
  return groups.flatMap(g => g.topics).flatMap(t => t.partitions).reduce((n, p) => n + Math.max(0, Number(p.committedOffset)), 0)
}

// group: two members share the partitions and get each record once; who comes later gets only what is new.
async function group (name, options) {
  const topic = `platformatic.${name}`
  await create(topic)
  const members = [await member(name, topic, options), await member(name, topic, options)]
  const share = m => (m.consumer.assignments || []).flatMap(a => a.partitions).length
  await until('two members with two partitions each', () => members.every(m => share(m) === 2))
  // It hands out what a fetch brings that was under way when its partition went to the other member: let those of the old assignment end, empty.
  await new Promise(resolve => setTimeout(resolve, 10 * maxWaitTime))
  await produce(topic)
  const all = () => members.flatMap(m => m.records)
  await until('each record', () => all().length >= LEN)
  const limit = Date.now() + 40000
  while (await committed(name) < LEN) { // else who gets a partition reads some of it again
    assert.ok(Date.now() < limit, 'each record is committed')
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  for (const m of members) await m.stop()
  whole(all())
  await produce(topic, {}, 7, 8)
  const late = await member(name, topic, options)
  await until('the record after the commit', () => late.records.length > 0)
  await late.stop()
  assert.deepEqual(late.records, [corpus[7]])
}

async function transactions () {
  const p = producer({ transactionalId: 'platformatic', idempotent: true })
  for (let at = 0; at < LEN; at += 100) {
    for (const [n, end] of [[100, 'commit'], [10, 'abort']]) {
      const t = await p.beginTransaction()
      await t.send({ messages: messages('out.txn', at, at + n) })
      await t[end]()
    }
  }
  await p.close()
}

async function topics () {
  const topic = 'platformatic.admin'
  await admin.createTopics({ topics: [topic], partitions: 3, replicas: 1, configs: [{ name: 'retention.ms', value: '60000' }] })
  const value = async () => (await admin.describeConfigs({ resources: [{ resourceType: 2, resourceName: topic }] }))[0].configs.find(c => c.name === 'retention.ms').value
  assert.equal(await value(), '60000')
  await admin.incrementalAlterConfigs({ resources: [{ resourceType: 2, resourceName: topic, configs: [{ name: 'retention.ms', configOperation: 0, value: '3600000' }] }] })
  assert.equal(await value(), '3600000')
  await admin.createPartitions({ topics: [{ name: topic, count: 5 }] })
  await admin.deleteTopics({ topics: [topic] })
  assert.ok(!(await admin.listTopics()).includes(topic))
}

async function groups () {
  assert.ok((await admin.listGroups()).has('classic'))
  assert.equal((await admin.describeGroups({ groups: ['classic'] })).get('classic').state.toUpperCase(), 'EMPTY')
  await admin.deleteGroups({ groups: ['classic'] })
  assert.ok(!(await admin.listGroups()).has('classic'))
}

async function survive () {
  await create('platformatic.restart')
  const p = producer({ idempotent: true })
  for (let i = 0; i < LEN; i += 50) {
    if (i === 500) await restart()
    await p.send({ messages: messages('platformatic.restart', i, i + 50), acks: -1 })
  }
  await p.close()
  await read('platformatic.restart', 1)
}

async function main () {
  say({ version: version('@platformatic/kafka') })
  for (const codec of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
    await run(`read ${codec}`, () => read(`in.${codec}`, 0))
    await run(`write ${codec}`, () => produce(`out.${codec}`, { compression: codec }), `out.${codec}`)
  }
  skip('read_committed', 'it filters one aborted transaction of a producer in a fetch, and lets the others through')
  await run('read_uncommitted', () => read('in.txn', 0, LEN + LEN / 10))
  await run('group, classic', () => group('classic'))
  await run('group, KIP-848', () => group('modern', { groupProtocol: 'consumer', rebalanceTimeout: 10000 }))
  await run('idempotent producer', async () => { await create('platformatic.idempotent'); await produce('platformatic.idempotent', { idempotent: true }); await read('platformatic.idempotent', 1) })
  await run('transactions', transactions, 'out.txn')
  await run('topics: create, describe, configure, grow, delete', topics)
  await run('groups: list, describe, delete', groups)
  await run('acknowledged records survive kill -9', survive)
  await admin.close()
  say({ done: true })
  process.exit(0)
}

main()
