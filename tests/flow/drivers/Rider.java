// SPDX-License-Identifier: MIT
// pgjdbc as it comes: named statements from the fifth execution on, batches in one pipeline.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Timer;
import java.util.TimerTask;
import org.postgresql.PGConnection;

class Rider {
    private final Connection db;
    private final String table;

    Rider(String[] args) throws SQLException {
        db = DriverManager.getConnection(
            "jdbc:postgresql://" + args[0] + ":" + args[1] + "/" + args[3] + "?user=" + args[2]);
        table = args[4];
    }

    private String value(String sql, Object... parameters) throws SQLException {
        try (PreparedStatement s = db.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++)
                s.setObject(i + 1, parameters[i]);
            try (ResultSet rows = s.executeQuery()) {
                rows.next();
                return rows.getString(1);
            }
        }
    }

    private void run(String sql) throws SQLException {
        try (Statement s = db.createStatement()) {
            s.execute(sql);
        }
    }

    private void insert(int n) throws SQLException {
        String sql = "insert into " + table + " (n) values (?)";
        try (PreparedStatement s = db.prepareStatement(sql)) {
            s.setInt(1, n);
            s.executeUpdate();
        }
    }

    private String count(int n) throws SQLException {
        return value("select count(*) from " + table + " where n = ?", n);
    }

    private String refused(String sql) {
        try {
            run(sql);
        } catch (SQLException e) {
            return e.getSQLState();
        }
        return "00000";
    }

    private String prepared(int times) throws SQLException {
        int total = 0;
        try (PreparedStatement twice = db.prepareStatement("select ?::int * 2")) {
            for (int i = 1; i <= times; i++) {
                twice.setInt(1, i);
                try (ResultSet rows = twice.executeQuery()) {
                    rows.next();
                    total += rows.getInt(1);
                }
                if (!value("select '" + i % 5 + "' || ?::text", "é").equals(i % 5 + "é"))
                    throw new IllegalStateException("not what was asked for");
            }
        }
        return "" + total;
    }

    private String rollback(int n) throws SQLException {
        db.setAutoCommit(false);
        insert(n);
        String inside = count(n);
        db.rollback();
        db.setAutoCommit(true);
        return inside + " " + count(n);
    }

    private String commit(int n) throws SQLException {
        db.setAutoCommit(false);
        insert(n);
        Savepoint here = db.setSavepoint();
        insert(n);
        db.rollback(here);
        insert(n);
        db.commit();
        db.setAutoCommit(true);
        return count(n);
    }

    private String failed(int n) throws SQLException {
        db.setAutoCommit(false);
        insert(n);
        String codes = refused("select 1/0") + " " + refused("select 1");
        db.rollback();
        db.setAutoCommit(true);
        return codes + " " + count(n);
    }

    private String isolation() throws SQLException {
        String seen = "";
        int before = db.getTransactionIsolation();
        // SET SESSION CHARACTERISTICS ...
        db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        for (int i = 0; i < 2; i++) {
            db.setAutoCommit(i == 0);
            seen += value("show transaction_isolation") + ",";
        }
        db.commit();
        db.setAutoCommit(true);
        db.setTransactionIsolation(before);
        return seen + value("show transaction_isolation");
    }

    private String big() throws SQLException {
        long rows = 0, size = 0;
        try (Statement s = db.createStatement();
             ResultSet r = s.executeQuery(
                 "select g, repeat('x', 1000) from generate_series(1, 4000) g")) {
            for (; r.next(); rows++)
                size += r.getString(2).length();
        }
        return rows + " " + size;
    }

    private String batch(int n, int... divisors) throws SQLException {
        try (PreparedStatement s = db.prepareStatement(
                 "insert into " + table + " (n, note) select ?, 1 / ?")) {
            for (int divisor : divisors) {
                s.setInt(1, n);
                s.setInt(2, divisor);
                s.addBatch();
            }
            s.executeBatch();
            return "00000";
        } catch (SQLException e) {
            return e.getSQLState();
        }
    }

    private String pipeline(int n) throws SQLException {
        int[] ones = new int[20];
        java.util.Arrays.fill(ones, 1);
        String first = batch(n, ones);
        if (!first.equals("00000"))
            return first;
        String before = count(n);
        return before + " " + batch(n, 1, 0, 1) + " " + count(n);
    }

    private String copy(int n) throws Exception {
        var api = db.unwrap(PGConnection.class).getCopyAPI();
        long sent = api.copyIn("copy " + table + " (n) from stdin",
                               new StringReader((n + "\n").repeat(500)));
        long out = api.copyOut("copy (select n from " + table + " where n = " + n + ") to stdout",
                               new StringWriter());
        return sent + " " + out;
    }

    private String cursor() throws SQLException {
        int seen = 0;
        db.setAutoCommit(false);
        try (PreparedStatement s = db.prepareStatement("select generate_series(1, ?::int)")) {
            s.setFetchSize(100); // a named portal, Execute with a limit
            s.setInt(1, 1000);
            try (ResultSet rows = s.executeQuery()) {
                while (rows.next())
                    seen++;
            }
        }
        db.commit();
        db.setAutoCommit(true);
        return "" + seen;
    }

    private String cancel() throws SQLException {
        try (Statement s = db.createStatement()) {
            Timer timer = new Timer(true);
            timer.schedule(new TimerTask() {
                @Override
                public void run() {
                    try {
                        s.cancel();
                    } catch (SQLException e) {
                        throw new IllegalStateException(e);
                    }
                }
            }, 1000);
            s.execute("select pg_sleep(60)");
            return "00000";
        } catch (SQLException e) {
            return e.getSQLState();
        }
    }

    private String set(int number) throws SQLException {
        run("set statement_timeout = " + number);
        run("set application_name to 'rider " + number + "'");
        run("set my.rider = '" + number + "'");
        return "ok";
    }

    private String show() throws SQLException {
        return value("show statement_timeout") + " " + value("show application_name") + " "
            + value("show my.rider");
    }

    private String answer(String verb, int n) throws Exception {
        switch (verb) {
        case "ping": return value("select 1");
        case "prepared": return prepared(n);
        case "rollback": return rollback(n);
        case "commit": return commit(n);
        case "failed": return failed(n);
        case "isolation": return isolation();
        case "big": return big();
        case "pipeline": return pipeline(n);
        case "copy": return copy(n);
        case "cursor": return cursor();
        case "cancel": return cancel();
        case "set": return set(n);
        case "show": return show();
        case "slow": return refused("select pg_sleep(" + n + ")");
        default: throw new IllegalArgumentException(verb);
        }
    }

    public static void main(String[] args) throws Exception {
        Rider rider = new Rider(args);
        System.out.println("ready");
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null;) {
            String[] words = line.trim().split(" ");
            try {
                int n = words.length > 1 ? Integer.parseInt(words[1]) : 0;
                System.out.println(rider.answer(words[0], n));
            } catch (Exception e) {
                System.out.println("error - " + e.toString().replace('\n', ' '));
            }
        }
        rider.db.close();
    }
}
