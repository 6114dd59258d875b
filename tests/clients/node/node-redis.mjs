// node-redis against the proxy face, over RESP2 and RESP3.

import { createClient, RESP_TYPES } from 'redis'
import { BINARY, LARGE, check, done, numbers, proxyPorts, refused } from './checks.mjs'

for (const RESP of [2, 3]) {
  const tag = `nr${RESP}`
  const open = (port) => createClient({ RESP, socket: { host: '127.0.0.1', port } }).on('error', (e) => { throw e }).connect()
  const client = await open(proxyPorts[0])
  const other = await open(proxyPorts.at(-1))
  const bytes = other.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
  check('PING', await client.ping(), 'PONG')
  check('SET', await client.set(`${tag}:a`, '1'), 'OK')
  check('GET', await client.get(`${tag}:a`), '1')
  check('GET through another node', await other.get(`${tag}:a`), '1')
  check('GET of nothing', await client.get(`${tag}:none`), null)
  check('MSET in one slot', await client.mSet([[`{${tag}}x`, '1'], [`{${tag}}y`, '2']]), 'OK')
  const keys = numbers(8).map((n) => `${tag}:spread:${n}`)
  for (const key of keys) await client.set(key, key)
  check('MGET across slots', await client.mGet([...keys, `${tag}:none`]), [...keys, null])
  check('INCR', [await client.incr(`${tag}:n`), await client.incr(`${tag}:n`)], [1, 2])
  check('EXPIRE', Number(await client.expire(`${tag}:a`, 100)), 1)
  const ttl = await client.ttl(`${tag}:a`)
  check('TTL', ttl >= 95 && ttl <= 100, true)
  check('DEL across slots', await client.del(keys), 8)
  // Commands of one tick go out as one pipeline.
  const replies = await Promise.all(numbers(50).flatMap((n) => [client.set(`${tag}:p:${n}`, `${n}`), client.get(`${tag}:p:${n}`)]))
  check('pipeline of 100', replies, numbers(50).flatMap((n) => ['OK', `${n}`]))
  await client.set(`${tag}:bin`, BINARY)
  check('binary value', await bytes.get(`${tag}:bin`), BINARY)
  await client.set(`${tag}:large`, LARGE)
  check('1 MB value', LARGE.equals(await bytes.get(`${tag}:large`)), true)
  await refused('unknown command', client.sendCommand(['NOSUCH', 'a']), "unknown command 'NOSUCH'")
  await refused('wrong arity', client.sendCommand(['GET']), "wrong number of arguments for 'get' command")
  await refused('SELECT 1', client.sendCommand(['SELECT', '1']), 'SELECT is not allowed')
  const hello = await client.sendCommand(['HELLO', String(RESP)])
  const pairs = Array.isArray(hello) ? hello : Object.entries(hello).flat()
  check('HELLO', pairs[pairs.indexOf('proto') + 1], RESP)
  let found = 0
  for await (const page of client.scanIterator({ MATCH: `${tag}:p:*`, COUNT: 100 })) found += [].concat(page).length
  check('SCAN', found, 50)
  await client.close()
  await other.close()
}
done()
