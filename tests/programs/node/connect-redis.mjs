// connect-redis: sessions of two express servers, each with a client of its own.

import { RedisStore } from 'connect-redis'
import express from 'express'
import session from 'express-session'
import { createClient } from 'redis'
import { check, done, numbers, proxyPorts } from './checks.mjs'

const prefix = 'connect-redis:'

async function serve(port) {
  const client = await createClient({ socket: { port } }).on('error', (e) => { throw e }).connect()
  const store = new RedisStore({ client, prefix, ttl: 100 })
  const app = express()
  app.use(session({ store, secret: 'of this test', resave: false, saveUninitialized: false }))
  app.get('/count', (request, response) => {
    request.session.visits = (request.session.visits ?? 0) + 1
    response.json({ visits: request.session.visits, user: request.session.user ?? null, id: request.sessionID })
  })
  app.get('/look', (request, response) => response.json({ visits: request.session.visits ?? 0 }))
  app.post('/in', (request, response, next) => {
    request.session.regenerate((error) => {
      if (error) return next(error)
      request.session.user = 'ada'
      response.json({ id: request.sessionID })
    })
  })
  app.post('/out', (request, response, next) => request.session.destroy((error) => (error ? next(error) : response.json({}))))
  const server = await new Promise((ready) => {
    const listening = app.listen(0, '127.0.0.1', () => ready(listening))
  })
  return { client, store, url: `http://127.0.0.1:${server.address().port}` }
}

const here = await serve(proxyPorts[0])
const there = await serve(proxyPorts.at(-1))
const { client, store } = here

function browser() {
  let cookie
  const ask = async (server, path, method = 'GET') => {
    const response = await fetch(server.url + path, { method, headers: cookie ? { cookie } : {} })
    cookie = response.headers.getSetCookie()[0]?.split(';')[0] ?? cookie
    return response.json()
  }
  return Object.assign(ask, { keep: () => cookie, use: (other) => (cookie = other) })
}

const ada = browser()
const bob = browser()
check('counts, in both servers', [(await ada(here, '/count')).visits, (await ada(there, '/count')).visits, (await ada(here, '/count')).visits], [1, 2, 3])
check('apart', (await bob(there, '/count')).visits, 1)
check('nothing is kept of who only looks', [await browser()(here, '/look'), await store.length()], [{ visits: 0 }, 2])
const { id } = await ada(here, '/count')
const ttl = await client.ttl(prefix + id)
check('expires', ttl > 0 && ttl <= 100, true)
await client.expire(prefix + id, 10)
await ada(there, '/look')
check('touched by looking', (await client.ttl(prefix + id)) > 10, true)
const old = ada.keep()
const after = (await ada(there, '/in', 'POST')).id
check('a new id at log-in', [after !== id, await client.exists(prefix + id), await client.exists(prefix + after)], [true, 0, 1])
const thief = browser()
thief.use(old)
check('the old one is of no use any more', (await thief(here, '/count')).visits, 1)
check('logged in for both', (await ada(here, '/count')).user, 'ada')
await ada(here, '/out', 'POST')
check('gone at log-out', [await client.exists(prefix + after), (await ada(there, '/count')).user], [0, null])
check('concurrent sessions', (await Promise.all(numbers(50).map((n) => browser()(n % 2 ? here : there, '/count')))).map((r) => r.visits), Array(50).fill(1))

// The store by itself.
const wanted = 53
check('length', await store.length(), wanted)
check('ids', new Set(await there.store.ids()).size, wanted)
check('all', (await there.store.all()).every((one) => one.visits >= 1), true)
const deep = { cookie: {}, list: [1, null, { a: 'é\0\r\n' }] }
await store.set('deep', deep)
check('any session', await there.store.get('deep'), deep)
await store.set('dated', { cookie: { expires: new Date(Date.now() + 5000).toISOString() } })
const dated = await client.ttl(`${prefix}dated`)
check('expires with its cookie', dated > 0 && dated <= 5, true)
await store.set('past', { cookie: { expires: new Date(Date.now() - 5000).toISOString() } })
check('a past one is not kept', await there.store.get('past') ?? null, null)
await store.destroy('deep')
check('destroyed', await there.store.get('deep') ?? null, null)
await store.clear()
check('cleared', [await there.store.length(), (await bob(here, '/count')).visits], [0, 1])
done()
