// redigo against the proxy face. The rules are those of checks.py.
package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/gomodule/redigo/redis"
)

var count int

func check(what string, got, wanted interface{}) {
	if !reflect.DeepEqual(got, wanted) {
		fmt.Fprintf(os.Stderr, "%s: got %.300v, expected %.300v\n", what, got, wanted)
		os.Exit(1)
	}
	count++
}

func must(reply interface{}, err error) interface{} {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return reply
}

func refused(client redis.Conn, what, text, command string, arguments ...interface{}) {
	_, err := client.Do(command, arguments...)
	check(what, err != nil && strings.Contains(err.Error(), text), true)
}

func main() {
	ports := strings.Split(os.Getenv("HC_PROXY"), ",")
	open := func(port string) redis.Conn { return must(redis.Dial("tcp", "127.0.0.1:"+port)).(redis.Conn) }
	client, other := open(ports[0]), open(ports[len(ports)-1])

	check("SET", must(client.Do("SET", "go:a", "1")), "OK")
	check("GET through another node", must(redis.String(other.Do("GET", "go:a"))), "1")
	_, err := redis.String(client.Do("GET", "go:none"))
	check("GET of nothing", err, redis.ErrNil)
	check("MSET in one slot", must(client.Do("MSET", "{go}x", 1, "{go}y", 2)), "OK")
	keys, values := redis.Args{}, []string{}
	for n := 0; n < 8; n++ {
		keys, values = keys.Add(fmt.Sprintf("go:spread:%d", n)), append(values, fmt.Sprint(n))
		check("SET", must(client.Do("SET", keys[n], n)), "OK")
	}
	check("MGET across slots", must(redis.Strings(client.Do("MGET", keys...))), values)
	for n := 1; n <= 3; n++ {
		check("INCR", must(redis.Int(client.Do("INCR", "go:n"))), n)
	}
	check("EXPIRE", must(redis.Int(client.Do("EXPIRE", "go:n", 100))), 1)
	ttl := must(redis.Int(client.Do("TTL", "go:n"))).(int)
	check("TTL", ttl >= 95 && ttl <= 100, true)
	check("DEL across slots", must(redis.Int(client.Do("DEL", keys...))), 8)

	for n := 0; n < 50; n++ {
		must(nil, client.Send("SET", fmt.Sprintf("go:p:%d", n), n))
		must(nil, client.Send("GET", fmt.Sprintf("go:p:%d", n)))
	}
	must(nil, client.Flush())
	for n := 0; n < 50; n++ {
		check("pipelined SET", must(client.Receive()), "OK")
		check("pipelined GET", must(redis.Int(client.Receive())), n)
	}

	large := make([]byte, 1<<20)
	for n := range large {
		large[n] = byte(n)
	}
	for _, size := range []int{256, len(large)} {
		check("SET of bytes", must(client.Do("SET", "go:bin", large[:size])), "OK")
		got := must(redis.Bytes(other.Do("GET", "go:bin"))).([]byte)
		check(fmt.Sprintf("value of %d bytes", size), bytes.Equal(got, large[:size]), true)
	}

	refused(client, "unknown command", "ERR unknown command 'NOSUCH'", "NOSUCH", "a")
	refused(client, "wrong arity", "wrong number of arguments for 'get' command", "GET")
	refused(client, "SELECT 1", "SELECT is not allowed", "SELECT", 1)
	fmt.Printf("%d checks\n", count)
}
