<?php
// SPDX-License-Identifier: MIT
// PDO as it comes: prepares in the server, forgets its statements by DEALLOCATE in SQL.
[, $host, $port, $user, $database, $table] = $argv;
$pdo = new PDO("pgsql:host=$host;port=$port;user=$user;dbname=$database", null, null,
               [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);

function value(string $sql, array $parameters = []) {
    global $pdo;
    $statement = $pdo->prepare($sql);
    $statement->execute($parameters);
    return $statement->fetchColumn();
}

function refused(string $sql): string {
    try {
        value($sql);
    } catch (PDOException $e) {
        return $e->errorInfo[0];
    }
    return "00000";
}

function insert($n): void {
    global $pdo, $table;
    $pdo->prepare("insert into $table (n) values (?)")->execute([$n]);
}

function counted($n): int {
    global $table;
    return value("select count(*) from $table where n = ?", [$n]);
}

$verbs = [
    "ping" => fn() => value("select 1"),
    "prepared" => function ($times) use ($pdo) {
        $total = 0;
        $twice = $pdo->prepare("select ?::int * 2");
        for ($i = 1; $i <= $times; $i++) {
            $twice->execute([$i]);
            $total += $twice->fetchColumn();
            $twice->closeCursor();
            if (value("select '" . ($i % 5) . "' || ?::text", ["é"]) !== ($i % 5) . "é")
                throw new Exception("not what was asked for");
        }
        return $total; // and $twice is deallocated
    },
    "rollback" => function ($n) use ($pdo) {
        $pdo->beginTransaction();
        insert($n);
        $inside = counted($n);
        $pdo->rollBack();
        return "$inside " . counted($n);
    },
    "commit" => function ($n) use ($pdo) {
        $pdo->beginTransaction();
        insert($n);
        $pdo->exec("savepoint here");
        insert($n);
        $pdo->exec("rollback to savepoint here");
        insert($n);
        $pdo->commit();
        return counted($n);
    },
    "failed" => function ($n) use ($pdo) {
        $pdo->beginTransaction();
        insert($n);
        $codes = refused("select 1/0") . " " . refused("select 1");
        $pdo->rollBack();
        return "$codes " . counted($n);
    },
    "big" => function () use ($pdo) {
        $sql = "select g, repeat('x', 1000) from generate_series(1, 4000) g";
        $rows = $pdo->query($sql)->fetchAll();
        return count($rows) . " " . array_sum(array_map(fn($row) => strlen($row[1]), $rows));
    },
    "copy" => function ($n) use ($pdo, $table) {
        $pdo->pgsqlCopyFromArray($table, array_fill(0, 500, $n), "\t", "\\\\N", "n");
        return "500 " . count($pdo->pgsqlCopyToArray("(select n from $table where n = $n)"));
    },
    "set" => function ($number) use ($pdo) {
        $pdo->exec("set statement_timeout = $number");
        $pdo->exec("set application_name to 'rider $number'");
        $pdo->exec("set my.rider = '$number'");
        return "ok";
    },
    "show" => fn() => value("show statement_timeout") . " " . value("show application_name") . " " .
        value("show my.rider"),
    "slow" => fn($seconds) => refused("select pg_sleep($seconds)"),
    "cursor" => function () use ($pdo) {
        $pdo->beginTransaction();
        $pdo->exec("declare portions cursor for select generate_series(1, 1000)");
        $seen = 0;
        while ($n = count($pdo->query("fetch 100 from portions")->fetchAll()))
            $seen += $n;
        $pdo->commit();
        return $seen;
    },
    "scroll" => function () use ($pdo) { // PDO declares it WITH HOLD
        $cursor = $pdo->prepare("select generate_series(1, 10)",
                                [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
        $cursor->execute();
        return $cursor->fetchColumn(0);
    },
    "forget" => function () use ($pdo) {
        $pdo->exec("discard all");
        return "ok";
    },
];

echo "ready\n";
while (($line = fgets(STDIN)) !== false) {
    $words = explode(" ", trim($line));
    try {
        echo $verbs[$words[0]](...array_slice($words, 1)), "\n";
    } catch (Throwable $e) {
        echo "error - ", str_replace("\n", " ", $e->getMessage()), "\n";
    }
}
