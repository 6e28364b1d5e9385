// How a client's program speaks with the runner of test/compat, and the corpus that both know. It never talks to a broker.
'use strict'
const assert = require('node:assert/strict')
const fs = require('node:fs')
const path = require('node:path')

const LEN = 1000
const PARTITIONS = 4
const EPOCH = 1700000000000
const bootstrap = process.env.OUTRELAY_COMPAT_BOOTSTRAP
const corpus = Array.from({ length: LEN }, (_, i) => ({ key: `k${i % 10}`, value: `v${i}:${'x'.repeat(i % 200)}`, headers: { n: `${i}` } }))

const say = line => fs.writeSync(1, JSON.stringify(line) + '\n')

// run runs a check and tells how it ended; wrote names the topic in which it has left the corpus.
async function run (name, f, wrote = '') {
  let timer
  const late = new Promise((resolve, reject) => { timer = setTimeout(() => reject(new Error('no end after 60 s')), 60000) })
  try {
    await Promise.race([f(), late])
    say({ check: name, result: 'passed', wrote })
  } catch (e) {
    say({ check: name, result: 'failed', why: e.stack || String(e) })
  } finally {
    clearTimeout(timer)
  }
}

const skip = (check, why) => say({ check, result: 'skipped', why })

function restart () {
  say({ ask: 'restart' })
  return new Promise((resolve, reject) => process.stdin.once('data', d => String(d) === 'ok\n' ? resolve() : reject(new Error(String(d)))))
}

// whole: each record of the corpus is there once.
function whole (records) {
  const line = r => [r.key, r.value, r.headers.n].join('|')
  assert.equal(records.length, LEN)
  assert.deepEqual(records.map(line).sort(), corpus.map(line).sort())
}

// until waits for the event that f looks at.
async function until (what, f) {
  const limit = Date.now() + 40000
  while (!f()) {
    assert.ok(Date.now() < limit, what)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

const version = name => JSON.parse(fs.readFileSync(path.join(process.env.NODE_PATH, name, 'package.json'))).version

module.exports = { LEN, PARTITIONS, EPOCH, bootstrap, corpus, say, run, skip, restart, whole, until, version }
