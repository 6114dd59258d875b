// ioredis' Cluster against the cluster face.

import { Cluster } from 'ioredis'
import { BINARY, LARGE, check, clusterPorts, done, numbers, refused } from './checks.mjs'

const tag = 'ioc'
const client = new Cluster(clusterPorts.map((port) => ({ host: '127.0.0.1', port })))
await new Promise((ready) => client.once('ready', ready))
check('nodes found', client.nodes('master').map((node) => node.options.port).sort(), clusterPorts)
const keys = numbers(100).map((n) => `${tag}:${n}`)
check('SET on every slot', await Promise.all(keys.map((key) => client.set(key, key))), keys.map(() => 'OK'))
check('GET on every slot', await Promise.all(keys.map((key) => client.get(key))), keys)
check('MSET in one slot', await client.mset({ [`{${tag}}x`]: '1', [`{${tag}}y`]: '2' }), 'OK')
check('MGET in one slot', await client.mget(`{${tag}}x`, `{${tag}}y`), ['1', '2'])
check('INCR', [await client.incr(`${tag}:n`), await client.incr(`${tag}:n`)], [1, 2])
check('EXPIRE', await client.expire(`${tag}:n`, 100), 1)
const ttl = await client.ttl(`${tag}:n`)
check('TTL', ttl >= 95 && ttl <= 100, true)
check('DEL', await Promise.all(keys.slice(0, 50).map((key) => client.del(key))), numbers(50).map(() => 1))
const pipe = client.pipeline()
for (const n of numbers(50)) pipe.set(`{${tag}}p:${n}`, n).get(`{${tag}}p:${n}`)
check('pipeline of 100', await pipe.exec(), numbers(50).flatMap((n) => [[null, 'OK'], [null, `${n}`]]))
check('binary value', (await client.set(`${tag}:bin`, BINARY), await client.getBuffer(`${tag}:bin`)), BINARY)
check('1 MB value', (await client.set(`${tag}:large`, LARGE), LARGE.equals(await client.getBuffer(`${tag}:large`))), true)
await refused('unknown command', client.call('NOSUCH', `${tag}:a`), "unknown command 'NOSUCH'")
await refused('wrong arity', client.call('INCR', `${tag}:a`, 'x'), "wrong number of arguments for 'incr' command")
// Told that a wrong node leads the slot, it is moved to the right one.
const slot = await client.cluster('KEYSLOT', `${tag}:99`)
const right = client.slots[slot][0]
client.slots[slot] = [client.nodes('master').map((n) => `127.0.0.1:${n.options.port}`).find((at) => at !== right)]
check('follows MOVED', await client.get(`${tag}:99`), `${tag}:99`)
done()
