"""Tests of what the bench reads from others and what it makes of it."""
import json
import unittest
import zlib

from . import backup, data, lists, mount, report, run, table, writers
from .table import OURS, Goal, Table


class Statistics(unittest.TestCase):
    def test_percentile(self):
        for samples, p, want in (([7], 99, 7), ([3, 1, 2], 50, 2), (list(range(1, 101)), 99, 99), (list(range(1, 102)), 99, 100), ([1, 2], 0, 1), ([1, 2], 100, 2)):
            self.assertEqual(writers.percentile(samples, p), want, (samples, p))

    def test_medians_and_the_best_peer(self):
        t = Table()
        for tool, values in ((OURS, [5, 1, 3]), ("borg", [10, 30, 20]), ("restic", [6, 6, 7]), ("limit", [2, 2, 2])):
            for v in values:
                t.add("a", "wall", "s", tool, v)
                t.add("a", "rate", "MB/s", tool, v)
        wall, rate = t.lines()
        self.assertEqual(wall[2:7], ("3.0", "restic 6.0", "0.50", "2.0", "1.50"))
        self.assertEqual(rate[3], "borg 20.0")

    def test_goals(self):
        # unit, goal, ours, met; borg has 10, restic 8, the limit is 20, our other row 4
        for unit, goal, ours, met in (
                ("s", Goal(0.6, peer="borg"), 6, True), ("s", Goal(0.6, peer="borg"), 6.01, False),
                ("s", Goal(0.5, peer="absent"), 4, True), ("s", Goal(0.5, peer="absent"), 4.1, False),  # against the best
                ("MB/s", Goal(3, peer="borg"), 30, True), ("MB/s", Goal(3, peer="borg"), 29, False),
                ("MB/s", Goal(0.75, limit=True), 15, True), ("MB/s", Goal(0.75, limit=True), 14, False),
                ("MB", Goal(value=200), 200, True), ("MB", Goal(value=200), 201, False),
                ("s", Goal(row="other", plus=2), 6, True), ("s", Goal(row="other", plus=2), 6.1, False)):
            t = Table()
            t.add("a", "other", "s", OURS, 4)
            for tool, v in (("borg", 10), ("restic", 8), ("limit", 20)):
                t.add("a", "x", unit, tool, v)
            t.add("a", "x", unit, OURS, ours, goal)
            self.assertEqual(t.lines()[1][-1], "met" if met else "MISSED", (unit, ours))

    def test_a_goal_without_anything_to_compare_with_has_no_verdict(self):
        t = Table()
        t.add("a", "x", "s", OURS, 1, Goal(0.6, peer="borg"))
        self.assertEqual(t.lines()[0][-2:], ("0.600 x borg", ""))
        self.assertEqual(t.missed(), [])

    def test_peers_of_another_row(self):
        t = Table()
        t.add("a", "x", "s", OURS, 1)
        t.add("a", "x", "s", "borg", 2)
        t.add("b", "y", "s", OURS, 3)
        t.copy_peers("a", "x", "y", "s", "b")
        self.assertEqual(t.rows["b", "y", "s"], {OURS: [3], "borg": [2]})

    def test_what_was_cut_short_is_marked(self):
        t = Table()
        t.add("a", "x", "s", OURS, 1)
        t.add("a", "x", "s", "borg", 150, cut=True)
        self.assertEqual(t.lines()[0][3], "borg >150")

    def test_figures(self):
        for v, want in ((None, "-"), (0, "0"), (0.0301, "0.030"), (1.04, "1.0"), (99.94, "99.9"), (1234.5, "1,234"), (-0.5, "-0.500")):
            self.assertEqual(table.fmt(v), want)


class Parsing(unittest.TestCase):
    def test_proc_stat(self):
        # name with a blank and parentheses; utime 5, stime 7, cutime 11, cstime 13
        self.assertEqual(run.parse_stat("42 (a) b) (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 7 11 13 20 0 8 0 100\n"), 36)

    def test_proc_status(self):
        self.assertEqual(run.parse_status("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\n"), (20480, 10240))
        self.assertEqual(run.parse_status("Name:\tkthreadd\n"), (0, 0))

    def test_fio(self):
        out = json.dumps({"jobs": [{"read": {"iops": 12.5, "clat_ns": {"percentile": {"99.000000": 2_500_000}}}}]})
        self.assertEqual(mount.parse_fio("fio: a warning\n" + out), (12.5, 2.5))

    def test_go_benchmarks(self):
        out = "BenchmarkLimitDecode-2   \t  44\t   5203309 ns/op\t 806.08 MB/s\nBenchmarkLimitCopy \t 1812\t 140848 ns/op\t 29778.93 MB/s\t 0 B/op\nBenchmarkOther-2 \t 1\t 5 ns/op\t 1.0 MB/s\n"
        self.assertEqual(backup.go_rates(out, "Limit"), [("Decode", 806.08), ("Copy", 29778.93)])

    def test_opens_are_seen(self):
        for times in (0, 1, 3):
            with backup.Opens(__file__) as o:
                for _ in range(times):
                    open(__file__).close()
            self.assertEqual(o.seen, times > 0)

    def test_memory_and_cpu_of_a_process_that_has_ended(self):
        self.assertEqual(run.memory(1 << 30), 0)
        self.assertEqual(run.cpu(1 << 30), 0)

    def test_measure(self):
        m = run.measure(["python3", "-c", "x = bytearray(60_000_000); import time; time.sleep(0.3); print('done')"])
        self.assertEqual(m["out"], "done\n")
        self.assertTrue(60 < m["rss"] < 120, m)
        self.assertGreaterEqual(m["wall"], 0.3)
        with self.assertRaises(run.Failed):
            run.measure(["sh", "-c", "echo why; exit 3"])
        self.assertTrue(run.measure(["sh", "-c", "sleep 60 | cat"], limit=0.2)["cut"])


class Data(unittest.TestCase):
    def test_choose(self):
        files = [(f"s{i}", 1000) for i in range(1000)] + [(f"l{i}", 100_000) for i in range(1000)]
        got = data.choose(files, 100, 2_000_000)
        self.assertEqual(len(set(got)), len(got))
        self.assertEqual(got, sorted(got))
        self.assertTrue(100 <= len(got) <= 120, len(got))
        self.assertTrue(2_000_000 <= sum(files[i][1] for i in got) < 2_200_000)

    def test_choose_from_too_few(self):
        self.assertEqual(data.choose([("a", 1), ("b", 1 << 20)], 1000, 1 << 40), [0, 1])
        self.assertEqual(data.choose([], 10, 10), [])

    def test_manifest(self):
        blob = lists.manifest(1795417484, "disk.img.fidx", 5, "00" * 32)
        self.assertEqual(blob[:8].hex(), "42ab3807be8370a1")
        self.assertEqual(int.from_bytes(blob[8:12], "little"), zlib.crc32(blob[12:]))
        self.assertEqual(json.loads(blob[12:])["files"][0]["filename"], "disk.img.fidx")


class Document(unittest.TestCase):
    def test_replace_between(self):
        text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        once = report.replace_between(text, "new")
        self.assertEqual(once, f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n")
        self.assertEqual(report.replace_between(once, "new"), once)
        for bad in ("", report.BEGIN, report.END):
            with self.assertRaises(ValueError):
                report.replace_between(bad, "new")


if __name__ == "__main__":
    unittest.main()
