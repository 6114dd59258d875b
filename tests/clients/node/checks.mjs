// What the JavaScript clients' programs share; the same rules as checks.py.

import { isDeepStrictEqual, inspect } from 'node:util'

export const BINARY = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, n) => n)), Buffer.from('\r\n$-1\r\n\0')])
export const LARGE = Buffer.alloc(1 << 20, BINARY.subarray(0, 256))
export const proxyPorts = process.env.HC_PROXY.split(',').map(Number)
export const clusterPorts = process.env.HC_CLUSTER.split(',').map(Number)
export const numbers = (count) => Array.from({ length: count }, (_, n) => n)

let count = 0

function wrong(what, got, wanted) {
  console.error(`${what}: got ${inspect(got).slice(0, 300)}, expected ${inspect(wanted).slice(0, 300)}`)
  process.exit(1)
}

export function check(what, got, wanted) {
  if (!isDeepStrictEqual(got, wanted)) wrong(what, got, wanted)
  count += 1
}

// The promise must be refused with an error that contains the text.
export async function refused(what, promise, text) {
  let got
  try {
    got = await promise
  } catch (error) {
    got = `${error.name}: ${error.message}`
    if (got.includes(text)) return void (count += 1)
  }
  wrong(what, got, `an error with ${text}`)
}

export function done() {
  console.log(`${count} checks`)
  process.exit(0)
}

process.on('unhandledRejection', (error) => {
  console.error(error)
  process.exit(1)
})
