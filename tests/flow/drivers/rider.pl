# SPDX-License-Identifier: MIT
# DBD::Pg as it comes: prepares in the server from the second execution on, DEALLOCATE in SQL.
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:async);

my ($host, $port, $user, $database, $table) = @ARGV;
my $db = DBI->connect("dbi:Pg:host=$host;port=$port;dbname=$database", $user, "",
                      {RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_enable_utf8 => 0});

sub value { my ($sql, @args) = @_; return $db->selectrow_array($sql, undef, @args) }
sub insert { $db->do("insert into $table (n) values (?)", undef, $_[0]) }
sub counted { return scalar value("select count(*) from $table where n = ?", $_[0]) }

sub refused {
    my ($sql) = @_;
    return eval { value($sql); 1 } ? "00000" : $db->state;
}

my %verbs = (
    ping => sub { scalar value("select 1") },
    prepared => sub {
        my ($times) = @_;
        my $total = 0;
        my $twice = $db->prepare("select ?::int * 2");
        for my $i (1 .. $times) {
            $twice->execute($i);
            $total += $twice->fetchrow_array;
            $twice->finish;
            my $other = $db->prepare_cached("select '" . ($i % 5) . "' || ?::text");
            $other->execute("z");
            my ($got) = $other->fetchrow_array;
            $other->finish;
            die "not what was asked for" if $got ne ($i % 5) . "z";
        }
        return $total;    # and $twice is deallocated
    },
    rollback => sub {
        my ($n) = @_;
        $db->begin_work;
        insert($n);
        my $inside = counted($n);
        $db->rollback;
        return "$inside " . counted($n);
    },
    commit => sub {
        my ($n) = @_;
        $db->begin_work;
        insert($n);
        $db->pg_savepoint("here");
        insert($n);
        $db->pg_rollback_to("here");
        insert($n);
        $db->commit;
        return counted($n);
    },
    failed => sub {
        my ($n) = @_;
        $db->begin_work;
        insert($n);
        my @codes = (refused("select 1/0"), refused("select 1"));
        $db->rollback;
        return join " ", @codes, counted($n);
    },
    big => sub {
        my $rows = $db->selectall_arrayref(
            "select g, repeat('x', 1000) from generate_series(1, 4000) g");
        my $size = 0;
        $size += length $_->[1] for @$rows;
        return @$rows . " $size";
    },
    copy => sub {
        my ($n) = @_;
        $db->do("copy $table (n) from stdin");
        $db->pg_putcopydata("$n\n") for 1 .. 500;
        $db->pg_putcopyend;
        $db->do("copy (select n from $table where n = $n) to stdout");
        my ($line, $out) = ("", 0);
        $out++ while $db->pg_getcopydata($line) >= 0;
        return "500 $out";
    },
    set => sub {
        my ($number) = @_;
        $db->do("set statement_timeout = $number");
        $db->do("set application_name to 'rider $number'");
        $db->do("set my.rider = '$number'");
        return "ok";
    },
    show => sub {
        return join " ",
            map { scalar value("show $_") } qw(statement_timeout application_name my.rider);
    },
    slow => sub { refused("select pg_sleep($_[0])") },
    cursor => sub {
        my $seen = 0;
        $db->begin_work;
        $db->do("declare portions cursor for select generate_series(1, 1000)");
        while (my $n = @{$db->selectall_arrayref("fetch 100 from portions")}) {
            $seen += $n;
        }
        $db->commit;
        return $seen;
    },
    cancel => sub {
        my $asked = $db->prepare("select pg_sleep(60)", {pg_async => PG_ASYNC});
        $asked->execute;
        select undef, undef, undef, 1;
        return $db->pg_cancel ? "57014" : "00000";
    },
);

$| = 1;
print "ready\n";
while (my $line = <STDIN>) {
    my ($verb, @args) = split " ", $line;
    my $answer = eval { $verbs{$verb}->(@args) };
    if ($@) { ($answer = "error - $@") =~ s/\n/ /g }
    print "$answer\n";
}
$db->disconnect;
