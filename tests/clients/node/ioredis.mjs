// ioredis against the proxy face.

import { Redis } from 'ioredis'
import { BINARY, LARGE, check, done, numbers, proxyPorts, refused } from './checks.mjs'

const tag = 'io'
const client = new Redis({ port: proxyPorts[0] })
const other = new Redis({ port: proxyPorts.at(-1) })
check('PING', await client.ping(), 'PONG')
check('SET', await client.set(`${tag}:a`, '1'), 'OK')
check('GET', await client.get(`${tag}:a`), '1')
check('GET through another node', await other.get(`${tag}:a`), '1')
check('GET of nothing', await client.get(`${tag}:none`), null)
check('MSET in one slot', await client.mset({ [`{${tag}}x`]: '1', [`{${tag}}y`]: '2' }), 'OK')
const keys = numbers(8).map((n) => `${tag}:spread:${n}`)
for (const key of keys) await client.set(key, key)
check('MGET across slots', await client.mget([...keys, `${tag}:none`]), [...keys, null])
check('INCR', [await client.incr(`${tag}:n`), await client.incr(`${tag}:n`)], [1, 2])
check('EXPIRE', await client.expire(`${tag}:a`, 100), 1)
const ttl = await client.ttl(`${tag}:a`)
check('TTL', ttl >= 95 && ttl <= 100, true)
check('DEL across slots', await client.del(...keys), 8)
const pipe = client.pipeline()
for (const n of numbers(50)) pipe.set(`${tag}:p:${n}`, n).get(`${tag}:p:${n}`)
check('pipeline of 100', await pipe.exec(), numbers(50).flatMap((n) => [[null, 'OK'], [null, `${n}`]]))
await client.set(`${tag}:bin`, BINARY)
check('binary value', await other.getBuffer(`${tag}:bin`), BINARY)
await client.set(`${tag}:large`, LARGE)
check('1 MB value', LARGE.equals(await other.getBuffer(`${tag}:large`)), true)
await refused('unknown command', client.call('NOSUCH', 'a'), "unknown command 'NOSUCH'")
await refused('wrong arity', client.call('GET'), "wrong number of arguments for 'get' command")
await refused('SELECT 1', client.select(1), 'SELECT is not allowed')
let found = 0
for await (const page of client.scanStream({ match: `${tag}:p:*`, count: 100 })) found += page.length
check('SCAN', found, 50)
done()
