// rate-limiter-flexible over ioredis and node-redis: points, blocking, penalties, bursts, many at once through several nodes.

import { Redis } from 'ioredis'
import { BurstyRateLimiter, RateLimiterRedis, RateLimiterUnion } from 'rate-limiter-flexible'
import { createClient } from 'redis'
import { check, done, numbers, proxyPorts } from './checks.mjs'

// A refusal is what consume() rejects with: the state of the limiter, not an error.
const outcome = (promise) => promise.then((state) => ['passed', state], (state) => {
  if (state instanceof Error) throw state
  return ['refused', state]
})
const passed = async (promises) => (await Promise.all(promises.map(outcome))).filter(([how]) => how === 'passed').length

const nodeRedis = async (port) => createClient({ socket: { port } }).on('error', (e) => { throw e }).connect()
for (const [name, open, more] of [['ioredis', (port) => new Redis({ port }), {}], ['node-redis', nodeRedis, { useRedisPackage: true }]]) {
  const clients = await Promise.all(proxyPorts.map(open))
  const limiter = (settings, n = 0) => new RateLimiterRedis({ storeClient: clients[n % clients.length], ...more, ...settings })
  const tag = `limits-${name}`

  const five = limiter({ keyPrefix: `${tag}:five`, points: 5, duration: 100 })
  const states = []
  for (const _ of numbers(7)) states.push(await outcome(five.consume('ada')))
  check(`${name}: five of seven`, states.map(([how]) => how), [...Array(5).fill('passed'), 'refused', 'refused'])
  check(`${name}: points left`, states.map(([, state]) => state.remainingPoints), [4, 3, 2, 1, 0, 0, 0])
  check(`${name}: time left`, states.every(([, state]) => state.msBeforeNext > 0 && state.msBeforeNext <= 100_000), true)
  check(`${name}: another has points of its own`, (await five.consume('bob', 3)).remainingPoints, 2)
  check(`${name}: get`, (await five.get('bob')).consumedPoints, 3)
  check(`${name}: nobody`, await five.get('nobody'), null)
  check(`${name}: penalty`, (await five.penalty('bob', 2)).consumedPoints, 5)
  check(`${name}: reward`, (await five.reward('bob', 4)).consumedPoints, 1)
  check(`${name}: delete`, [await five.delete('ada'), await five.delete('ada'), (await five.consume('ada')).remainingPoints], [true, false, 4])
  await five.set('bob', 5, 100)
  check(`${name}: set`, (await outcome(five.consume('bob')))[0], 'refused')
  await five.block('eve', 50)
  const [how, blocked] = await outcome(five.consume('eve'))
  check(`${name}: blocked`, [how, blocked.msBeforeNext > 40_000 && blocked.msBeforeNext <= 50_000], ['refused', true])

  const punishing = limiter({ keyPrefix: `${tag}:punishing`, points: 1, duration: 1, blockDuration: 100 })
  await punishing.consume('ada')
  const [, punished] = await outcome(punishing.consume('ada'))
  check(`${name}: blocked for longer than the window`, punished.msBeforeNext > 10_000, true)

  const short = limiter({ keyPrefix: `${tag}:short`, points: 1, duration: 1 })
  await short.consume('ada')
  const [refusal, { msBeforeNext }] = await outcome(short.consume('ada'))
  await new Promise((go) => setTimeout(go, msBeforeNext + 100))
  check(`${name}: a new window`, [refusal, (await outcome(short.consume('ada')))[0]], ['refused', 'passed'])

  // Through every node at once, exactly so many pass.
  const shared = numbers(6).map((n) => limiter({ keyPrefix: `${tag}:shared`, points: 40, duration: 100 }, n))
  check(`${name}: exactly 40 of 120`, await passed(numbers(120).map((n) => shared[n % shared.length].consume('all'))), 40)
  check(`${name}: all were counted`, (await shared[0].get('all')).consumedPoints, 120)

  const bursty = new BurstyRateLimiter(
    limiter({ keyPrefix: `${tag}:steady`, points: 2, duration: 100 }),
    limiter({ keyPrefix: `${tag}:burst`, points: 3, duration: 100 })
  )
  check(`${name}: burst`, await passed(numbers(8).map(() => bursty.consume('ada'))), 5)
  const union = new RateLimiterUnion(
    limiter({ keyPrefix: `${tag}:second`, points: 1, duration: 100 }),
    limiter({ keyPrefix: `${tag}:minute`, points: 5, duration: 100 })
  )
  await union.consume('ada')
  const refusedBy = await union.consume('ada').then(() => 'passed', (states) => Object.keys(states).filter((key) => states[key].remainingPoints === 0))
  check(`${name}: union`, refusedBy, [`${tag}:second`])
}
done()
