// SPDX-License-Identifier: GPL-2.0-only
/*
 * The statistics behind ci/compare: reads values.tsv, prints the A/B table.
 *
 * Input, tab separated: LANE KERNEL ROUND TEST KEY VALUE.  KERNEL is "base" or
 * "stack", all else is ignored.  Samples of one LANE, TEST and KEY belong
 * together, whatever the round.
 *
 * A key whose last word ends in _ns, _us, _ms or _s is a time: medians are given
 * as a ratio, stack to base, and only if the difference is significant by a
 * two-sided Mann-Whitney U test (p < 0.05; exact for up to 20 samples in all
 * without ties, else the normal approximation with tie correction and continuity
 * correction) and at least MIN_EFFECT; "~" otherwise.  Everything else is a
 * count, and counts are compared exactly: "=" if all samples of both kernels
 * agree, else both medians and ranges.
 *
 * Method: H. B. Mann and D. R. Whitney, "On a Test of Whether one of Two Random
 * Variables is Stochastically Larger than the Other", Ann. Math. Statist. 18
 * (1947).  The exact distribution is counted with their recurrence.
 *
 * Usage: compare [--data DIR] FILE; --data also writes DIR/LANE.TEST.KEY.dat, a
 * line "LABEL BASE STACK" of medians for each key with a slot_mib= label.
 * Exit: 0 fine, 2 wrong usage or unreadable input, 3 out of memory or disk.
 */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_EFFECT	0.10
#define P_LIMIT		0.05
#define MAX_EXACT	20

struct samples {
	double *v;
	size_t nr, room;
};

struct row {
	char *lane, *test, *key;
	struct samples side[2];		/* base, stack */
};

static struct row *rows;
static size_t nr_rows;

static void *checked(void *p)
{
	if (!p) {
		fprintf(stderr, "compare: out of memory\n");
		exit(3);
	}
	return p;
}

static struct row *row_of(const char *lane, const char *test, const char *key)
{
	size_t i;

	for (i = 0; i < nr_rows; i++) {
		if (!strcmp(rows[i].lane, lane) && !strcmp(rows[i].test, test) &&
		    !strcmp(rows[i].key, key))
			return &rows[i];
	}
	rows = checked(realloc(rows, (nr_rows + 1) * sizeof(*rows)));
	memset(&rows[nr_rows], 0, sizeof(*rows));
	rows[nr_rows].lane = checked(strdup(lane));
	rows[nr_rows].test = checked(strdup(test));
	rows[nr_rows].key = checked(strdup(key));
	return &rows[nr_rows++];
}

static void add(struct samples *s, double v)
{
	if (s->nr == s->room) {
		s->room = s->room ? 2 * s->room : 8;
		s->v = checked(realloc(s->v, s->room * sizeof(*s->v)));
	}
	s->v[s->nr++] = v;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(const struct samples *s)
{
	return s->nr % 2 ? s->v[s->nr / 2] : (s->v[s->nr / 2 - 1] + s->v[s->nr / 2]) / 2;
}

/* Number of ways to get U = @u with sample sizes @m and @n, of C(m + n, n) in all. */
static double ways(int u, int m, int n)
{
	static double memo[MAX_EXACT + 1][MAX_EXACT + 1][MAX_EXACT * MAX_EXACT + 1];
	double *w;

	if (u < 0 || u > m * n)
		return 0;
	if (!m || !n)
		return u == 0;
	w = &memo[m][n][u];
	if (!*w)
		*w = 1 + ways(u - n, m - 1, n) + ways(u, m, n - 1);
	return *w - 1;	/* 0 marks "not computed" */
}

/* Two-sided p of the Mann-Whitney U test; both sides sorted. */
static double u_test(const struct samples *a, const struct samples *b)
{
	double u = 0, ties = 0, mean, var, z, below = 0, all = 0;
	size_t m = a->nr, n = b->nr, i, j;
	bool tied = false;

	for (i = 0; i < m; i++) {
		for (j = 0; j < n; j++) {
			if (a->v[i] == b->v[j])
				tied = true;
			u += a->v[i] > b->v[j] ? 1 : a->v[i] == b->v[j] ? 0.5 : 0;
		}
	}

	if (!tied && m + n <= MAX_EXACT) {
		double tail = fmin(u, (double)(m * n) - u);

		for (i = 0; i <= m * n; i++) {
			double w = ways(i, m, n);

			all += w;
			if ((double)i <= tail)
				below += w;
		}
		return fmin(1, 2 * below / all);
	}

	/* Tied groups of the pooled samples, for the variance. */
	double *pool = checked(malloc((m + n) * sizeof(*pool)));

	memcpy(pool, a->v, m * sizeof(*pool));
	memcpy(pool + m, b->v, n * sizeof(*pool));
	qsort(pool, m + n, sizeof(*pool), by_value);
	for (i = 0; i < m + n; i = j) {
		for (j = i; j < m + n && pool[j] == pool[i]; j++)
			;
		ties += pow(j - i, 3) - (j - i);
	}
	free(pool);

	mean = m * n / 2.0;
	var = m * n / 12.0 * ((m + n + 1) - ties / ((m + n) * (m + n - 1.0)));
	if (var <= 0)
		return 1;
	z = fmax(0, fabs(u - mean) - 0.5) / sqrt(var);
	return erfc(z / sqrt(2));
}

static bool is_time(const char *key)
{
	static const char * const units[] = { "_ns", "_us", "_ms", "_s" };
	size_t len = strlen(key), i;

	for (i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (len > strlen(units[i]) && !strcmp(key + len - strlen(units[i]), units[i]))
			return true;
	}
	return false;
}

static bool constant(const struct row *r)
{
	size_t i;

	for (i = 0; i < r->side[0].nr; i++) {
		if (r->side[0].v[i] != r->side[1].v[0])
			return false;
	}
	return r->side[1].v[0] == r->side[1].v[r->side[1].nr - 1];
}

static void print_row(const struct row *r)
{
	const struct samples *a = &r->side[0], *b = &r->side[1];
	double ma = median(a), mb = median(b), p;

	printf("%-15s %-20s %-42s %12.6g %12.6g %3zu/%-3zu ", r->lane, r->test, r->key,
	       ma, mb, a->nr, b->nr);
	if (!is_time(r->key)) {
		if (constant(r))
			printf("=\n");
		else
			printf("[%g-%g] [%g-%g]\n", a->v[0], a->v[a->nr - 1], b->v[0], b->v[b->nr - 1]);
		return;
	}
	p = u_test(a, b);
	if (p < P_LIMIT && ma > 0 && fabs(mb / ma - 1) >= MIN_EFFECT)
		printf("x%.2f (p=%.3f)\n", mb / ma, p);
	else
		printf("~ (p=%.2f)\n", p);
}

/* "slot_mib=32 stall_max_us" becomes a line "32 BASE STACK" of ...stall_max_us.dat. */
static void write_data(const char *dir, const struct row *r)
{
	char path[1024], *blank = strchr(r->key, ' ');
	FILE *f;

	if (strncmp(r->key, "slot_mib=", 9) || !blank || !is_time(r->key))
		return;
	snprintf(path, sizeof(path), "%s/%s.%s.%s.dat", dir, r->lane, r->test, blank + 1);
	f = fopen(path, "a");
	if (!f) {
		fprintf(stderr, "compare: cannot write %s: %s\n", path, strerror(errno));
		exit(3);
	}
	fprintf(f, "%.*s %g %g\n", (int)(blank - r->key - 9), r->key + 9,
		median(&r->side[0]), median(&r->side[1]));
	fclose(f);
}

int main(int argc, char **argv)
{
	const char *dir = NULL, *file;
	size_t line_nr = 0, i;
	char line[4096];
	FILE *f;

	if (argc == 4 && !strcmp(argv[1], "--data")) {
		dir = argv[2];
	} else if (argc != 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: compare [--data DIR] FILE\n");
		return 2;
	}
	file = argv[argc - 1];
	f = fopen(file, "r");
	if (!f) {
		fprintf(stderr, "compare: cannot read %s: %s\n", file, strerror(errno));
		return 2;
	}
	while (fgets(line, sizeof(line), f)) {
		char *field[6], *save = NULL, *end;
		double value;
		int n = 0;

		line_nr++;
		line[strcspn(line, "\n")] = '\0';
		for (char *s = strtok_r(line, "\t", &save); s && n < 6; s = strtok_r(NULL, "\t", &save))
			field[n++] = s;
		if (n != 6) {
			fprintf(stderr, "compare: %s:%zu: wants LANE KERNEL ROUND TEST KEY VALUE, tab separated\n",
				file, line_nr);
			return 2;
		}
		value = strtod(field[5], &end);
		if (end == field[5] || *end || !isfinite(value))
			continue;	/* a word, e.g. a mode's name: nothing to compare */
		if (strcmp(field[1], "base") && strcmp(field[1], "stack"))
			continue;
		/* Repetitions of a test, "NAME:2", are samples of NAME. */
		field[3][strcspn(field[3], ":")] = '\0';
		add(&row_of(field[0], field[3], field[4])->side[!strcmp(field[1], "stack")], value);
	}
	fclose(f);

	printf("%-15s %-20s %-42s %12s %12s %7s %s\n", "lane", "test", "key", "base", "stack", "n",
	       "stack to base");
	for (i = 0; i < nr_rows; i++) {
		struct row *r = &rows[i];

		if (!r->side[0].nr || !r->side[1].nr)
			continue;
		qsort(r->side[0].v, r->side[0].nr, sizeof(double), by_value);
		qsort(r->side[1].v, r->side[1].nr, sizeof(double), by_value);
		print_row(r);
		if (dir)
			write_data(dir, r);
	}
	return 0;
}
