// BullMQ: queues, delayed and repeated jobs, priorities, retries, rate limits, flows, events. Its keys share a slot by its prefix.

import { FlowProducer, Queue, QueueEvents, UnrecoverableError, Worker } from 'bullmq'
import { check, done, numbers, proxyPorts, refused } from './checks.mjs'

const prefix = '{bullmq}'
const at = (port) => ({ connection: { host: '127.0.0.1', port }, prefix })
const here = at(proxyPorts[0])
const there = at(proxyPorts.at(-1))
const closing = []
const opened = (thing) => (closing.unshift(thing), thing)
const WITHIN_MS = 20_000

const jobs = opened(new Queue('jobs', here))
// Each job that is waited for listens for the end of the queue.
jobs.setMaxListeners(200)
const events = opened(new QueueEvents('jobs', there))
await events.waitUntilReady()
const heard = { completed: [], failed: [], progress: [], delayed: [], waiting: [] }
for (const [name, list] of Object.entries(heard)) events.on(name, (event) => list.push(event.jobId))
const order = []

async function work(job) {
  if (job.name === 'add') return job.data.a + job.data.b
  if (job.name === 'same') return job.data
  if (job.name === 'fail') throw new Error(job.data)
  if (job.name === 'hopeless') throw new UnrecoverableError('hopeless')
  if (job.name === 'third' && job.attemptsMade < 2) throw new Error(`attempt ${job.attemptsMade}`)
  if (job.name === 'third') return job.attemptsMade
  if (job.name === 'now') return Date.now()
  if (job.name === 'order') return void order.push(job.data)
  if (job.name === 'progress') {
    await job.updateProgress(50)
    await job.log('half of it')
    return 'done'
  }
}

// Before there is a worker: priorities, a job of an id that is there, counts.
const [low] = await jobs.addBulk([['low', 10], ['high', 1], ['middle', 5]].map(([data, priority]) => ({ name: 'order', data, opts: { priority } })))
await jobs.add('order', 'plain')
await jobs.add('order', 'front', { lifo: true })
await jobs.add('add', { a: 1, b: 1 }, { jobId: 'one-of-them' })
await jobs.add('add', { a: 2, b: 2 }, { jobId: 'one-of-them' })
check('counts', await jobs.getJobCounts('waiting', 'prioritized', 'delayed'), { waiting: 3, prioritized: 3, delayed: 0 })
check('the first of an id stays', (await jobs.getJob('one-of-them')).data, { a: 1, b: 1 })

const worker = opened(new Worker('jobs', work, { ...there, concurrency: 1 }))
const result = (job) => job.waitUntilFinished(events, WITHIN_MS)
check('a result', await result(await jobs.add('add', { a: 2, b: 3 })), 5)
await result(low)
check('order of priorities', order, ['front', 'plain', 'high', 'middle', 'low'])
const deep = { text: 'é\0\r\n', list: [1, null, { a: [] }], long: 'x'.repeat(100_000) }
check('any data', await result(await jobs.add('same', deep)), deep)
worker.concurrency = 10
const many = await jobs.addBulk(numbers(100).map((n) => ({ name: 'add', data: { a: n, b: n } })))
check('100 at once', await Promise.all(many.map(result)), numbers(100).map((n) => 2 * n))

await refused('a failure', result(await jobs.add('fail', 'as it should')), 'as it should')
const third = await jobs.add('third', null, { attempts: 3, backoff: { type: 'fixed', delay: 100 } })
check('retried until it works', await result(third), 2)
const givenUp = await jobs.add('fail', 'given up', { attempts: 2 })
await refused('retried until it is given up', result(givenUp), 'given up')
const failed = await jobs.getJob(givenUp.id)
check('attempts and state', [failed.attemptsMade, await failed.getState(), failed.stacktrace.length], [2, 'failed', 2])
const hopeless = await jobs.add('hopeless', null, { attempts: 5 })
await refused('not retried when hopeless', result(hopeless), 'hopeless')
check('one attempt', (await jobs.getJob(hopeless.id)).attemptsMade, 1)
const progress = await jobs.add('progress')
check('progress', [await result(progress), heard.progress.includes(progress.id)], ['done', true])
check('log', (await jobs.getJobLogs(progress.id)).logs, ['half of it'])

const began = Date.now()
const delayed = await jobs.add('now', null, { delay: 700 })
check('state of a delayed one', await delayed.getState(), 'delayed')
check('not before its time', (await result(delayed)) - began >= 650, true)
const promoted = await jobs.add('now', null, { delay: 60_000 })
await promoted.promote()
check('promoted', (await result(promoted)) - began < 60_000, true)
const removed = await jobs.add('now', null, { delay: 60_000 })
await removed.remove()
check('removed', await jobs.getJob(removed.id), undefined)

// Repeated: three times, and gone.
const ticks = []
const ticking = opened(new Queue('ticking', here))
const ticker = opened(new Worker('ticking', async (job) => void ticks.push(job.data.n), there))
await ticking.upsertJobScheduler('tick', { every: 200, limit: 3 }, { name: 'tick', data: { n: 7 } })
const until = Date.now() + WITHIN_MS
while (ticks.length < 3 && Date.now() < until) await new Promise((go) => setTimeout(go, 20))
check('repeated', ticks, [7, 7, 7])
check('schedulers', (await ticking.getJobSchedulers()).map((scheduler) => scheduler.key).length <= 1, true)
await ticking.removeJobScheduler('tick')
check('no scheduler', await ticking.getJobSchedulers(), [])

// Paused: nothing is done until it goes on.
await jobs.pause()
const paused = await jobs.add('add', { a: 1, b: 2 })
check('paused', [await jobs.isPaused(), await paused.getState()], [true, 'waiting'])
await jobs.resume()
check('goes on', await result(paused), 3)

// A limit of rate.
const limited = opened(new Queue('limited', here))
const limitedEvents = opened(new QueueEvents('limited', here))
await limitedEvents.waitUntilReady()
const starts = []
const slow = opened(new Worker('limited', async () => void starts.push(Date.now()), { ...here, limiter: { max: 2, duration: 500 } }))
const rated = await limited.addBulk(numbers(5).map((n) => ({ name: 'n', data: n })))
await Promise.all(rated.map((job) => job.waitUntilFinished(limitedEvents, WITHIN_MS)))
check('limit of rate', starts.at(-1) - starts[0] >= 900, true)

// A flow: the parent runs when its children are done, and has their results.
const flow = opened(new FlowProducer(here))
const parents = opened(new Queue('parents', here))
const parentEvents = opened(new QueueEvents('parents', here))
await parentEvents.waitUntilReady()
const parentWorker = opened(
  new Worker('parents', async (job) => Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0), there)
)
const tree = await flow.add({
  name: 'sum',
  queueName: 'parents',
  children: numbers(5).map((n) => ({ name: 'add', queueName: 'jobs', data: { a: n, b: 10 } }))
})
check('flow', await tree.job.waitUntilFinished(parentEvents, WITHIN_MS), 60)

check('nothing is left to do', await jobs.getJobCounts('waiting', 'active', 'delayed', 'prioritized', 'paused'), {
  waiting: 0, active: 0, delayed: 0, prioritized: 0, paused: 0
})
check('every event was heard', [many.every((job) => heard.completed.includes(job.id)), heard.delayed.includes(delayed.id)], [true, true])
check('counts of the finished', [await jobs.getFailedCount(), (await jobs.getCompletedCount()) > 100], [3, true])
// CLIENT LIST is of one node's connections: it is asked where the worker is.
check('workers', (await opened(new Queue('jobs', there)).getWorkers()).length, 1)
check('cleaned', [(await jobs.clean(0, 1000, 'completed')).length > 100, await jobs.getCompletedCount()], [true, 0])
await jobs.obliterate()
check('obliterated', await jobs.getJobCounts('completed', 'failed'), { completed: 0, failed: 0 })
for (const thing of closing) await thing.close()
check('all workers ended', [worker, ticker, slow, parentWorker].every((one) => !one.isRunning()), true)
done()
