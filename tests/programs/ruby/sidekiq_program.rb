# Sidekiq: this file is the client, and what the server process requires: jobs, retries, schedules, the dead.
#
# With several groups all keys share a slot, by a namespace with a hash tag (redis-namespace).

require "sidekiq"
require "sidekiq/api"
require "redis/namespace"

# The client warns of forms that this Sidekiq uses.
Redis.silence_deprecations = true

PORTS = ENV.fetch("HC_PROXY").split(",").map(&:to_i)
NAMESPACE = ENV.fetch("HC_FACE") == "three" ? "{sidekiq}" : "sidekiq-program"

# The client and the server use different nodes where there are several.
def options(port)
  {url: "redis://127.0.0.1:#{port}/0", namespace: NAMESPACE}
end

Sidekiq.configure_client { |config| config.redis = options(PORTS.first) }
Sidekiq.configure_server do |config|
  config.redis = options(PORTS.last)
  # What is due is looked for every so many seconds; the default is for hundreds of processes.
  Sidekiq.options[:poll_interval_average] = 0.3
end

def note(key, value)
  Sidekiq.redis { |redis| redis.rpush("noted:#{key}", value) }
end

class Add
  include Sidekiq::Worker
  def perform(a, b)
    note("add", (a + b).to_s)
  end
end

class Same
  include Sidekiq::Worker
  def perform(value)
    note("same", JSON.generate(value))
  end
end

class Urgent
  include Sidekiq::Worker
  sidekiq_options queue: "urgent"
  def perform(name)
    note("order", name)
  end
end

class Usual
  include Sidekiq::Worker
  def perform(name)
    note("order", name)
  end
end

class ThirdTime
  include Sidekiq::Worker
  sidekiq_options retry: 5
  sidekiq_retry_in { 3600 }
  def perform
    tries = Sidekiq.redis { |redis| redis.incr("noted:tries") }
    raise "try #{tries}" if tries < 3
    note("third", tries.to_s)
  end
end

class Hopeless
  include Sidekiq::Worker
  sidekiq_options retry: 0
  def perform
    raise "hopeless"
  end
end

class GivenUp
  include Sidekiq::Worker
  sidekiq_options retry: 1, dead: false
  sidekiq_retry_in { 3600 }
  sidekiq_retries_exhausted { |job, error| note("exhausted", "#{job["class"]} #{error.message}") }
  def perform
    raise "given up"
  end
end

class Now
  include Sidekiq::Worker
  def perform(name)
    note(name, Time.now.to_f.to_s)
  end
end

# What follows is the client's alone.
return if Sidekiq.server?

WITHIN_S = 20
Sidekiq.logger.level = Logger::ERROR
$checks = 0

def check(what, got, wanted)
  abort "#{what}: got #{got.inspect[0, 300]}, expected #{wanted.inspect[0, 300]}" unless got == wanted
  $checks += 1
end

# The value that the block gives once it is as wanted, or its last one.
def eventually(wanted)
  ends = Process.clock_gettime(Process::CLOCK_MONOTONIC) + WITHIN_S
  loop do
    got = yield
    return got if got == wanted || Process.clock_gettime(Process::CLOCK_MONOTONIC) > ends
    sleep 0.02
  end
end

def noted(key)
  Sidekiq.redis { |redis| redis.lrange("noted:#{key}", 0, -1) }
end

def noted_within(key, count)
  eventually(count) { noted(key).size }
  noted(key)
end

# Before there is a server: what lies in the queues.
3.times { |n| Usual.perform_async("usual #{n}") }
Urgent.perform_async("urgent")
dropped = Usual.perform_async("dropped")
usual = Sidekiq::Queue.new("default")
check "sizes", [usual.size, Sidekiq::Queue.new("urgent").size, Sidekiq::Stats.new.enqueued], [4, 1, 5]
check "queues", Sidekiq::Queue.all.map(&:name).sort, ["default", "urgent"]
check "what is next", usual.map { |job| job.args.first }, ["dropped", "usual 2", "usual 1", "usual 0"]
check "deleted", [usual.find_job(dropped).delete, usual.size], [true, 3]
check "latency", usual.latency >= 0, true

server = Process.spawn(RbConfig.ruby, "-S", "sidekiq", "-r", File.expand_path(__FILE__), "-c", "5", "-q", "urgent", "-q", "default", "-t", "5",
  out: File::NULL, err: :err)
begin
  check "of both queues", noted_within("order", 4).sort, ["urgent", "usual 0", "usual 1", "usual 2"]
  50.times { |n| Add.perform_async(n, n) }
  check "50 jobs", noted_within("add", 50).map(&:to_i).sort, (0...50).map { |n| 2 * n }
  Sidekiq::Client.push_bulk("class" => Add, "args" => (0...1000).map { |n| [n, 10_000] })
  check "1000 at once", noted_within("add", 1050).map(&:to_i).sort.last(1000), (10_000...11_000).to_a
  deep = {"text" => "é\0\r\n", "list" => [1, nil, {"a" => []}], "long" => "x" * 100_000}
  Same.perform_async(deep)
  check "any argument", JSON.parse(noted_within("same", 1).first), deep

  retries = Sidekiq::RetrySet.new
  third = ThirdTime.perform_async
  check "to be tried again", eventually([third]) { retries.map(&:jid) }, [third]
  check "with the error", retries.first.item.values_at("error_message", "retry_count"), ["try 1", 0]
  # One way is to wait until it is due, the other to say so.
  retries.first.reschedule(Time.now.to_f)
  check "tried again when it is due", eventually("try 2") { retries.first && retries.first.item["error_message"] }, "try 2"
  retries.retry_all
  check "retried until it works", noted_within("third", 1), ["3"]
  hopeless = Hopeless.perform_async
  dead = Sidekiq::DeadSet.new
  check "the dead", eventually([hopeless]) { dead.map(&:jid) }, [hopeless]
  check "with the error", dead.first.item.values_at("error_class", "error_message"), ["RuntimeError", "hopeless"]
  given_up = GivenUp.perform_async
  check "once more", eventually([given_up]) { retries.map(&:jid) }, [given_up]
  retries.first.reschedule(Time.now.to_f)
  check "given up", noted_within("exhausted", 1), ["GivenUp given up"]
  check "nothing left to retry", [eventually(0) { retries.size }, dead.size], [0, 1]

  began = Time.now.to_f
  Now.perform_in(1, "later")
  check "scheduled", Sidekiq::ScheduledSet.new.map(&:klass), ["Now"]
  check "not before its time", noted_within("later", 1).first.to_f - began >= 1, true
  Now.perform_at(Time.now + 3600, "never")
  scheduled = Sidekiq::ScheduledSet.new
  check "taken back", [scheduled.map(&:delete).size, scheduled.size], [1, 0]

  stats = Sidekiq::Stats.new
  # 4 + 50 + 1000 + 1 + 3 + 1 + 2 + 1 were tried, of which 2 + 1 + 2 failed; a server tells of it every five seconds.
  check "counts", eventually([1062, 5]) { stats = Sidekiq::Stats.new; [stats.processed, stats.failed] }, [1062, 5]
  check "by day", Sidekiq::Stats::History.new(1).processed.values, [1062]
  processes = Sidekiq::ProcessSet.new
  check "processes", processes.map { |one| [one["pid"], one["queues"].sort, one["concurrency"]] }, [[server, ["default", "urgent"], 5]]
  check "nothing is left", [Sidekiq::Stats.new.enqueued, Sidekiq::Workers.new.size], [0, 0]
  died = dead.first.score
  dead.first.retry
  check "made to live, and dead again", eventually(true) { dead.any? && dead.first.score > died }, true

  Process.kill("TERM", server)
  _, status = Process.wait2(server)
  check "the server ends in order", status.exitstatus, 0
  server = nil
  check "and is signed off", Sidekiq::ProcessSet.new.size, 0
ensure
  if server
    Process.kill("KILL", server)
    Process.wait(server)
  end
end
puts "#{$checks} checks"
