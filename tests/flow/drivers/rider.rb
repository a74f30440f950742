# SPDX-License-Identifier: MIT
# pg, the driver beneath ActiveRecord and Sequel: statements prepared by name, pipelines of libpq.
require "pg"

host, port, user, database, TABLE = ARGV
C = PG.connect(host: host, port: port, user: user, dbname: database)

def value(sql, params = []) = C.exec_params(sql, params).getvalue(0, 0)

def insert(n) = C.exec_params("insert into #{TABLE} (n) values ($1)", [n])

def count(n) = value("select count(*) from #{TABLE} where n = $1", [n])

def code(error) = error.result&.error_field(PG::PG_DIAG_SQLSTATE) || error.message

def refused(sql)
  C.exec(sql)
  "00000"
rescue PG::Error => e
  code(e)
end

# One pipeline: these inserts, each prepared before; the first error's code.
def insert_in_pipeline(n, divisors)
  C.enter_pipeline_mode
  C.send_prepare("divide", "insert into #{TABLE} (n, note) select $1::int, 1 / $2::int")
  divisors.each { |divisor| C.send_query_prepared("divide", [n, divisor]) }
  C.pipeline_sync
  failed = "00000"
  (divisors.size + 1).times do
    state = C.get_result.error_field(PG::PG_DIAG_SQLSTATE)
    failed = state if state && failed == "00000"
    C.get_result # nil between the commands
  end
  C.get_result # PGRES_PIPELINE_SYNC
  C.exit_pipeline_mode
  C.exec("deallocate divide")
  failed
end

VERBS = {
  "ping" => -> { value("select 1") },
  "prepared" => lambda { |times|
    C.prepare("twice", "select $1::int * 2")
    # As ActiveRecord does: names that count up, forgotten by DEALLOCATE.
    5.times { |k| C.prepare("a#{k}", "select '#{k}' || $1::text") }
    total = (1..times.to_i).sum do |i|
      raise "not what was asked for" if
        C.exec_prepared("a#{i % 5}", ["é"]).getvalue(0, 0) != "#{i % 5}é"
      C.exec_prepared("twice", [i]).getvalue(0, 0).to_i
    end
    5.times { |k| C.exec("DEALLOCATE a#{k}") }
    C.describe_prepared("twice")
    C.exec("DEALLOCATE twice")
    total
  },
  "rollback" => lambda { |n|
    C.exec("begin")
    insert(n)
    inside = count(n)
    C.exec("rollback")
    "#{inside} #{count(n)}"
  },
  "commit" => lambda { |n|
    C.transaction do
      insert(n)
      C.exec("savepoint here")
      insert(n)
      C.exec("rollback to savepoint here")
      insert(n)
    end
    count(n)
  },
  "failed" => lambda { |n|
    C.exec("begin")
    insert(n)
    codes = [refused("select 1/0"), refused("select 1")]
    C.exec("rollback")
    [*codes, count(n)].join(" ")
  },
  "big" => lambda {
    rows = size = 0
    C.send_query("select g, repeat('x', 1000) from generate_series(1, 4000) g")
    C.set_single_row_mode
    C.get_result.stream_each { |row| rows += 1; size += row["repeat"].size }
    C.discard_results
    "#{rows} #{size}"
  },
  "pipeline" => lambda { |n|
    first = insert_in_pipeline(n, [1] * 20)
    raise first if first != "00000"
    before = count(n)
    "#{before} #{insert_in_pipeline(n, [1, 0, 1])} #{count(n)}"
  },
  "copy" => lambda { |n|
    sent = C.copy_data("copy #{TABLE} (n) from stdin") { 500.times { C.put_copy_data("#{n}\n") } }
    out = 0
    C.copy_data("copy (select n from #{TABLE} where n = #{n}) to stdout") do
      out += 1 while C.get_copy_data
    end
    "#{sent.cmd_tuples} #{out}"
  },
  "set" => lambda { |number|
    C.exec("set statement_timeout = #{number}")
    C.exec("set application_name to 'rider #{number}'")
    C.exec("set my.rider = '#{number}'")
    "ok"
  },
  "show" => lambda {
    %w[statement_timeout application_name my.rider].map { |s| value("show #{s}") }.join(" ")
  },
  "slow" => ->(seconds) { refused("select pg_sleep(#{seconds})") },
  "cursor" => lambda {
    seen = 0
    C.transaction do
      C.exec("declare portions cursor for select generate_series(1, 1000)")
      while (n = C.exec("fetch 100 from portions").ntuples) > 0
        seen += n
      end
    end
    seen
  },
  "cancel" => lambda {
    C.send_query("select pg_sleep(60)")
    C.block(1)
    C.cancel
    begin
      C.get_last_result
      "00000"
    rescue PG::Error => e
      code(e)
    end
  },
}.freeze

$stdout.sync = true
puts "ready"
while (line = $stdin.gets)
  verb, *args = line.split
  begin
    puts VERBS.fetch(verb).call(*args)
  rescue StandardError => e
    puts "error - #{e.class} #{e.message.tr("\n", ' ')}"
  end
end
C.close
