// redlock: contenders for one lock over stores that know nothing of one another, or over one store with three nodes.

import { Redis } from 'ioredis'
import Redlock from 'redlock'
import { check, done, numbers, proxyPorts, refused } from './checks.mjs'

const apart = process.env.HC_APART.split(',').map(Number)
const stores = apart.map((port) => new Redis({ port }))
// Through several nodes of one store a contender would meet itself; there each contender uses one of the nodes.
const nodes = apart.length > 1 ? [stores] : proxyPorts.map((port) => [new Redis({ port })])
const contender = (number, settings = {}) => new Redlock(nodes[number % nodes.length], { retryCount: 0, ...settings })
const all = (ask) => Promise.all(stores.map(ask))
const everywhere = (value) => stores.map(() => value)

const [one, other] = [contender(0), contender(1)]
let lock = await one.lock('redlock-js:a', 10_000)
check('taken', await all((store) => store.get('redlock-js:a')), everywhere(lock.value))
check('it expires', (await all((store) => store.pttl('redlock-js:a'))).every((ms) => ms > 0 && ms <= 10_000), true)
await refused('not taken twice', other.lock('redlock-js:a', 1000), 'LockError')
lock = await lock.extend(50_000)
check('extended', (await all((store) => store.pttl('redlock-js:a'))).every((ms) => ms > 10_000 && ms <= 50_000), true)
await lock.unlock()
check('released everywhere', await all((store) => store.exists('redlock-js:a')), everywhere(0))
await refused('not released twice', lock.unlock(), 'LockError')
const several = await one.lock(['{redlock-js}:x', '{redlock-js}:y'], 10_000)
check('several at once', await all((store) => store.exists('{redlock-js}:x', '{redlock-js}:y')), everywhere(2))
await refused('one of them is held', other.lock(['{redlock-js}:y', '{redlock-js}:z'], 1000), 'LockError')
check('and nothing else is left', await all((store) => store.exists('{redlock-js}:z')), everywhere(0))
await several.unlock()

const short = await one.lock('redlock-js:short', 200)
const next = await contender(1, { retryCount: 50, retryDelay: 50 }).lock('redlock-js:short', 10_000)
check('an expired lock is taken over', next.value !== short.value, true)
await refused('and cannot be extended', short.extend(1000), 'LockError')

if (stores.length > 1) {
  await stores[0].set('redlock-js:minor', 'held')
  check('a majority is enough', (await one.lock('redlock-js:minor', 1000)).attempts, 1)
  for (const store of stores.slice(0, 2)) await store.set('redlock-js:major', 'held')
  await refused('a minority is not', one.lock('redlock-js:major', 1000), 'LockError')
  check('and is given back', await stores[2].exists('redlock-js:major'), 0)
}

// Each adds to a counter by reading and writing it, which only the lock makes whole.
const [CONTENDERS, ROUNDS] = [6, 5]
let [inside, most] = [0, 0]
await Promise.all(
  numbers(CONTENDERS).map(async (number) => {
    const locks = contender(number, { retryCount: 1000, retryDelay: 10, retryJitter: 10 })
    for (const _ of numbers(ROUNDS)) {
      const held = await locks.lock('redlock-js:b', 20_000)
      most = Math.max(most, ++inside)
      const value = Number(await stores[0].get('redlock-js:counter'))
      await stores[0].set('redlock-js:counter', value + 1)
      inside -= 1
      await held.unlock()
    }
  })
)
check('never two inside', most, 1)
check('no addition is lost', await stores[0].get('redlock-js:counter'), `${CONTENDERS * ROUNDS}`)
done()
