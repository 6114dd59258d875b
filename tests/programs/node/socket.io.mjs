// Socket.IO's adapter: two server processes that know of one another only through it, and clients at both of them.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createAdapter } from '@socket.io/redis-adapter'
import { createClient } from 'redis'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import { check, done, numbers, proxyPorts, refused } from './checks.mjs'

async function serve(name, port) {
  const client = () => createClient({ socket: { port } }).on('error', (e) => { throw e }).connect()
  const server = new Server(0, { adapter: createAdapter(await client(), await client(), { key: 'socket.io', requestsTimeout: 5000 }) })
  server.on('connection', (socket) => {
    socket.on('join', (room, told) => Promise.resolve(socket.join(room)).then(() => told(name)))
    socket.on('to', (room, ...words) => socket.to(room).emit('word', ...words))
    socket.on('all', (...words) => server.emit('word', ...words))
  })
  server.on('sum', (number, told) => told(number * 10))
  return server
}

if (process.argv[2] === 'serve') {
  const server = await serve('there', Number(process.argv[3]))
  process.on('disconnect', () => process.exit(0))
  process.on('message', async (message) => {
    if (message === 'close') return server.close(() => process.exit(0))
    process.send(await server.fetchSockets().then((sockets) => sockets.map((socket) => socket.id)))
  })
  process.send(server.httpServer.address().port)
} else {
  const here = await serve('here', proxyPorts[0])
  const other = fork(fileURLToPath(import.meta.url), ['serve', String(proxyPorts.at(-1))])
  process.on('exit', () => other.kill('SIGKILL'))
  const [port] = await once(other, 'message')
  const ports = [here.httpServer.address().port, port]

  const clients = await Promise.all(numbers(6).map(async (n) => {
    const socket = io(`http://127.0.0.1:${ports[n % 2]}`, { transports: ['websocket'], forceNew: true })
    const words = []
    socket.on('word', (...said) => words.push(said))
    socket.on('ask', (question, told) => told(`${question} ${n}`))
    await once(socket, 'connect')
    return { socket, words, n }
  }))
  const join = (client, room) => new Promise((joined) => client.socket.emit('join', room, joined))
  // Each server is told of the other by the subscriptions; until both are there, messages have one reader less.
  const until = Date.now() + 10_000
  while ((await here.of('/').adapter.serverCount()) < 2 && Date.now() < until) await new Promise((go) => setTimeout(go, 20))
  check('two servers', await here.of('/').adapter.serverCount(), 2)
  check('both have clients', await Promise.all(clients.map((client) => join(client, `room-${client.n % 3}`))), ['here', 'there', 'here', 'there', 'here', 'there'])

  const heard = async (count) => {
    const until = Date.now() + 5000
    while (clients.reduce((sum, { words }) => sum + words.length, 0) < count && Date.now() < until) await new Promise((go) => setTimeout(go, 10))
    // What should not come would come by now.
    await new Promise((go) => setTimeout(go, 100))
    return clients.map(({ words }) => words.splice(0))
  }
  clients[0].socket.emit('all', 'hello')
  check('to all, from here', await heard(6), numbers(6).map(() => [['hello']]))
  clients[1].socket.emit('all', 'hello', { deep: [1, null] })
  check('to all, from there', await heard(6), numbers(6).map(() => [['hello', { deep: [1, null] }]]))
  clients[0].socket.emit('to', 'room-0', 'in the room')
  check('to a room, not to who says it', await heard(1), [[], [], [], [['in the room']], [], []])
  here.to(['room-0', 'room-1']).except('room-1').emit('word', 'but one')
  check('to rooms but one', await heard(2), numbers(6).map((n) => (n % 3 === 0 ? [['but one']] : [])))
  const bytes = Buffer.from(numbers(256))
  here.to('room-2').emit('word', bytes)
  check('bytes', await heard(2), numbers(6).map((n) => (n % 3 === 2 ? [[bytes]] : [])))
  here.to(clients[5].socket.id).emit('word', 'only you')
  check('to one at the other server', await heard(1), numbers(6).map((n) => (n === 5 ? [['only you']] : [])))
  for (const n of numbers(200)) here.emit('word', n)
  check('200, in order', await heard(1200), numbers(6).map(() => numbers(200).map((n) => [n])))
  here.local.emit('word', 'local')
  check('local ones stay here', await heard(3), numbers(6).map((n) => (n % 2 ? [] : [['local']])))

  const ids = clients.map(({ socket }) => socket.id).sort()
  check('sockets of both, asked here', (await here.fetchSockets()).map((socket) => socket.id).sort(), ids)
  other.send('sockets')
  check('sockets of both, asked there', (await once(other, 'message'))[0].sort(), ids)
  check('rooms of both', [...(await here.of('/').adapter.allRooms())].filter((room) => room.startsWith('room-')).sort(), ['room-0', 'room-1', 'room-2'])
  check('answers of all', (await here.timeout(5000).emitWithAck('ask', 'who')).sort(), numbers(6).map((n) => `who ${n}`))
  check('a question to the other server', await here.serverSideEmitWithAck('sum', 7), [70])
  here.in('room-0').socketsJoin('late')
  here.in(clients[3].socket.id).socketsLeave('room-0')
  while ((await here.in('room-0').fetchSockets()).length > 1 && Date.now() < until) await new Promise((go) => setTimeout(go, 20))
  here.to('late').emit('word', 'late')
  check('made to join', await heard(2), numbers(6).map((n) => (n % 3 === 0 ? [['late']] : [])))
  here.to('room-0').emit('word', 'left')
  check('made to leave', await heard(1), numbers(6).map((n) => (n === 0 ? [['left']] : [])))
  const gone = once(clients[1].socket, 'disconnect')
  here.in('room-1').except(clients[4].socket.id).disconnectSockets(true)
  check('disconnected at the other server', (await gone)[0], 'io server disconnect')

  other.send('close')
  const [code] = await once(other, 'exit')
  check('the other server ends in order', code, 0)
  const alone = Date.now() + 10_000
  while ((await here.of('/').adapter.serverCount()) > 1 && Date.now() < alone) await new Promise((go) => setTimeout(go, 20))
  check('one server', await here.of('/').adapter.serverCount(), 1)
  done()
}
