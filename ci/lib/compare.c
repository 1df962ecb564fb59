// SPDX-License-Identifier: GPL-2.0-only
/*
 * The statistics behind ci/compare: reads samples, prints the A/B table.
 *
 * Input, tab separated: LANE KERNEL ROUND TEST KEY VALUE KIND.  KERNEL is "base"
 * or "stack", all else is ignored.  KIND is "less" or "more", whichever is
 * better, for a measurement, and "count" for a number that repeats.  A VALUE
 * that is no number is no sample.
 *
 * Counts are compared exactly: "=" if all samples of both kernels agree, else
 * the range of each.
 *
 * Measurements: the boot, i.e. a ROUND of a KERNEL in a LANE, is the unit, as
 * samples of one boot share its layout of memory and what its host was doing.
 * The median of each boot's samples enters a two-sided Mann-Whitney U test [1],
 * exact, ties included.  Printed are the median of the ratios of all pairs of
 * boots (the Hodges-Lehmann estimate [2] of a shift, in logarithms), its
 * interval (95 % at least), and q, the false discovery rate by Benjamini and
 * Hochberg [3] over all rows that could be significant.  Signs:
 *
 *   better         q <= Q_LIMIT, and a ratio of MIN_EFFECT at least
 *   <10%           q <= Q_LIMIT, and a smaller ratio, either way
 *   ~              no difference that could not be chance
 *   too few boots  no difference could be significant with so few
 *
 * "worse" has to be seen twice: a row that is worse with p <= P_LIMIT by itself,
 * whatever its q, or with q <= Q_LIMIT, is "worse?", and to be measured again.
 * Rounds "*confirm*" are boots made for that, and are judged alone.  The row is
 * "worse" if it is again worse there with p <= P_LIMIT, else "not again".  By
 * chance, with four boots a side each time, one row in 4900 gets there (1/70 each
 * time; 2/70 the first time if q <= Q_LIMIT counts), or fewer, as the ratio must be
 * beyond MIN_EFFECT, too.
 *
 * [1] H. B. Mann and D. R. Whitney, "On a Test of Whether one of Two Random
 *     Variables is Stochastically Larger than the Other", Ann. Math. Statist. 18 (1947)
 * [2] J. L. Hodges and E. L. Lehmann, "Estimates of Location Based on Rank
 *     Tests", Ann. Math. Statist. 34 (1963)
 * [3] Y. Benjamini and Y. Hochberg, "Controlling the False Discovery Rate",
 *     J. R. Statist. Soc. B 57 (1995)
 *
 * Usage: compare [--data DIR] FILE; --data also writes DIR/rows.tsv, a line
 * LANE TEST KEY KIND BASE STACK BASE_BOOTS STACK_BOOTS RATIO LOW HIGH P Q SIGN
 * for each measurement ("-" for what there is none of; all but P and Q are of the
 * boots that confirm, where there are any), and DIR/LANE.TEST.KEY.dat, a line
 * "LABEL BASE STACK" of medians for each key with a slot_mib= label.
 * Exit: 0 fine, 2 wrong usage or unreadable input, 3 out of memory or disk.
 */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_EFFECT	1.10	/* as a ratio, either way */
#define P_LIMIT		0.05
#define Q_LIMIT		0.10

enum kind { COUNT, LESS, MORE };
static const char * const kind_names[] = { "count", "less", "more" };

struct samples {
	double *v;
	size_t nr, room;
};

struct boot {
	char *round;
	struct samples samples;
};

struct side {
	struct boot *boots;
	size_t nr;
};

/* What a set of boots says of base and stack. */
struct finding {
	struct samples side[2];		/* a median a boot, sorted */
	double ratio, low, high;	/* stack to base; the interval */
	double p, q;
	bool enough;			/* boots to be significant, at best */
};

struct row {
	char *lane, *test, *key;
	enum kind kind;
	struct side side[2];		/* base, stack */
	struct finding first, again;
	const char *sign;
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

static struct row *row_of(const char *lane, const char *test, const char *key, enum kind kind)
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
	rows[nr_rows].kind = kind;
	return &rows[nr_rows++];
}

static struct boot *boot_of(struct side *side, const char *round)
{
	size_t i;

	for (i = 0; i < side->nr; i++) {
		if (!strcmp(side->boots[i].round, round))
			return &side->boots[i];
	}
	side->boots = checked(realloc(side->boots, (side->nr + 1) * sizeof(*side->boots)));
	memset(&side->boots[side->nr], 0, sizeof(*side->boots));
	side->boots[side->nr].round = checked(strdup(round));
	return &side->boots[side->nr++];
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

static void sort(struct samples *s)
{
	if (s->nr)
		qsort(s->v, s->nr, sizeof(*s->v), by_value);
}

/* Of sorted samples.  Ratios may be infinite. */
static double median(const struct samples *s)
{
	double a = s->v[(s->nr - 1) / 2], b = s->v[s->nr / 2];

	return a == b ? a : (a + b) / 2;
}

/*
 * How many choices of @m of the @n doubled ranks have which sum: an array of
 * *@size counts.
 */
static double *rank_sums(const size_t *rank, size_t n, size_t m, size_t *size)
{
	size_t sum = 0, i, k, s;
	double *ways, *result;

	for (i = 0; i < n; i++)
		sum += rank[i];
	*size = sum + 1;
	ways = checked(calloc((m + 1) * *size, sizeof(*ways)));
	ways[0] = 1;
	for (i = 0; i < n; i++) {
		for (k = i < m ? i + 1 : m; k > 0; k--) {
			for (s = rank[i]; s <= sum; s++)
				ways[k * *size + s] += ways[(k - 1) * *size + s - rank[i]];
		}
	}
	result = checked(malloc(*size * sizeof(*result)));
	memcpy(result, ways + m * *size, *size * sizeof(*result));
	free(ways);
	return result;
}

/* The two-sided p of the Mann-Whitney U test of what is in @f. */
static double u_test(const struct finding *f)
{
	size_t m = f->side[0].nr, n = f->side[1].nr, size, i, j, s, sum = 0;
	size_t *rank = checked(malloc((m + n) * sizeof(*rank)));
	double *ways, mean, all = 0, beyond = 0;
	struct samples pool = {};

	for (i = 0; i < m; i++)
		add(&pool, f->side[0].v[i]);
	for (i = 0; i < n; i++)
		add(&pool, f->side[1].v[i]);
	sort(&pool);
	/* Ranks of ties are their mean; doubled, they are integers. */
	for (i = 0; i < m + n; i = j) {
		for (j = i; j < m + n && pool.v[j] == pool.v[i]; j++)
			;
		for (s = i; s < j; s++)
			rank[s] = i + 1 + j;
	}
	for (i = 0; i < m; i++) {
		for (j = 0; pool.v[j] != f->side[0].v[i]; j++)
			;
		sum += rank[j];
	}
	mean = (double)m * (m + n + 1);
	ways = rank_sums(rank, m + n, m, &size);
	for (s = 0; s < size; s++) {
		all += ways[s];
		if (fabs(s - mean) >= fabs(sum - mean))
			beyond += ways[s];
	}
	free(ways);
	free(rank);
	free(pool.v);
	return beyond / all;
}

/*
 * How many of the lowest, and of the highest, of the m * n ratios an interval of
 * 1 - P_LIMIT leaves out; -1 if it would have to be wider than all of them, i.e.
 * if no difference of so few boots is significant.
 */
static int cut(size_t m, size_t n)
{
	size_t *rank = checked(malloc((m + n) * sizeof(*rank)));
	double *ways, all = 0, tail = 0;
	size_t size, i, s, least = m * (m + 1);
	int c = -1;

	for (i = 0; i < m + n; i++)
		rank[i] = 2 * (i + 1);
	ways = rank_sums(rank, m + n, m, &size);
	for (s = 0; s < size; s++)
		all += ways[s];
	for (s = least; s < size; s += 2) {
		tail += ways[s];
		if (2 * tail / all > P_LIMIT)
			break;
		c++;
	}
	free(ways);
	free(rank);
	return c;
}

static void judge(struct finding *f)
{
	struct samples ratios = {};
	size_t i, j;
	int c;

	f->p = f->q = 1;
	f->low = 0;
	f->high = INFINITY;
	if (!f->side[0].nr || !f->side[1].nr)
		return;
	sort(&f->side[0]);
	sort(&f->side[1]);
	for (i = 0; i < f->side[0].nr; i++) {
		for (j = 0; j < f->side[1].nr; j++) {
			double a = f->side[0].v[i], b = f->side[1].v[j];

			add(&ratios, a == b ? 1 : b / a);
		}
	}
	sort(&ratios);
	f->ratio = median(&ratios);
	c = cut(f->side[0].nr, f->side[1].nr);
	f->enough = c >= 0;
	if (f->enough) {
		f->low = ratios.v[c];
		f->high = ratios.v[ratios.nr - 1 - c];
		f->p = u_test(f);
	}
	free(ratios.v);
}

static bool has_effect(const struct finding *f)
{
	return f->ratio >= MIN_EFFECT || f->ratio <= 1 / MIN_EFFECT;
}

static bool looks_worse(const struct row *r, const struct finding *f)
{
	return has_effect(f) && (f->ratio > 1) == (r->kind == LESS);
}

/* All samples of both sides are one number. */
static bool constant(const struct row *r)
{
	double first = r->side[0].boots[0].samples.v[0];
	size_t s, b, i;

	for (s = 0; s < 2; s++) {
		for (b = 0; b < r->side[s].nr; b++) {
			for (i = 0; i < r->side[s].boots[b].samples.nr; i++) {
				if (r->side[s].boots[b].samples.v[i] != first)
					return false;
			}
		}
	}
	return true;
}

/* Takes a row's samples apart into what is found first, and what again. */
static void find(struct row *r)
{
	size_t s, b;

	for (s = 0; s < 2; s++) {
		for (b = 0; b < r->side[s].nr; b++) {
			struct boot *boot = &r->side[s].boots[b];
			bool again = strstr(boot->round, "confirm");

			sort(&boot->samples);
			add(&(again ? &r->again : &r->first)->side[s], median(&boot->samples));
		}
	}
	judge(&r->first);
	judge(&r->again);
}

static int by_p(const void *a, const void *b)
{
	const struct finding *x = *(struct finding **)a, *y = *(struct finding **)b;

	return (x->p > y->p) - (x->p < y->p);
}

/* Benjamini and Hochberg's q of each row that can be significant. */
static void correct(void)
{
	struct finding **f = checked(malloc((nr_rows + 1) * sizeof(*f)));
	size_t nr = 0, i;
	double q = 1;

	for (i = 0; i < nr_rows; i++) {
		if (rows[i].kind != COUNT && rows[i].first.enough && !constant(&rows[i]))
			f[nr++] = &rows[i].first;
	}
	if (nr)
		qsort(f, nr, sizeof(*f), by_p);
	for (i = nr; i-- > 0;) {
		q = fmin(q, f[i]->p * nr / (i + 1));
		f[i]->q = q;
	}
	free(f);
}

static const char *sign_of(const struct row *r)
{
	const struct finding *f = &r->first;

	if (constant(r))
		return "=";
	if (!f->enough)
		return "too few boots";
	if ((f->p <= P_LIMIT || f->q <= Q_LIMIT) && looks_worse(r, f)) {
		if (!r->again.enough)
			return "worse?";
		return r->again.p <= P_LIMIT && looks_worse(r, &r->again) ? "worse" : "not again";
	}
	if (f->q > Q_LIMIT)
		return "~";
	return has_effect(f) ? "better" : "<10%";
}

static void print_finding(const struct finding *f)
{
	printf("%12.6g %12.6g %3zu/%-3zu x%.2f", median(&f->side[0]), median(&f->side[1]),
	       f->side[0].nr, f->side[1].nr, f->ratio);
	if (f->enough)
		printf(" [%.2f-%.2f]", f->low, f->high);
}

static void print_range(const struct side *side)
{
	double least = INFINITY, most = -INFINITY;
	size_t b;

	for (b = 0; b < side->nr; b++) {
		const struct samples *s = &side->boots[b].samples;

		least = fmin(least, s->v[0]);
		most = fmax(most, s->v[s->nr - 1]);
	}
	printf(" [%g-%g]", least, most);
}

static void print_row(const struct row *r)
{
	const struct finding *f = &r->first;

	printf("%-15s %-20s %-42s ", r->lane, r->test, r->key);
	if (r->kind == COUNT || constant(r)) {
		printf("%12.6g %12.6g %3zu/%-3zu", median(&f->side[0]), median(&f->side[1]),
		       f->side[0].nr, f->side[1].nr);
		if (constant(r)) {
			printf(" =\n");
		} else {
			print_range(&r->side[0]);
			print_range(&r->side[1]);
			printf("\n");
		}
		return;
	}
	print_finding(f);
	if (f->enough)
		printf(" q=%.2g", f->q);
	printf(" %s\n", r->sign);
	if (r->again.enough) {
		printf("%-15s %-20s %-42s ", "", "", "  again");
		print_finding(&r->again);
		printf(" p=%.2g\n", r->again.p);
	}
}

static FILE *open_data(const char *path, const char *mode)
{
	FILE *f = fopen(path, mode);

	if (!f) {
		fprintf(stderr, "compare: cannot write %s: %s\n", path, strerror(errno));
		exit(3);
	}
	return f;
}

static void close_data(const char *path, FILE *f)
{
	bool bad = ferror(f);

	if (fclose(f) || bad) {
		fprintf(stderr, "compare: cannot write %s: disk full?\n", path);
		exit(3);
	}
}

static void write_row(FILE *out, const struct row *r)
{
	/* What was seen again is the better estimate: the first one was selected. */
	const struct finding *f = r->again.enough ? &r->again : &r->first;

	fprintf(out, "%s\t%s\t%s\t%s\t%g\t%g\t%zu\t%zu\t%.3f\t", r->lane, r->test, r->key, kind_names[r->kind],
		median(&f->side[0]), median(&f->side[1]), f->side[0].nr, f->side[1].nr, f->ratio);
	if (f->enough)
		fprintf(out, "%.3f\t%.3f\t%.4f\t%.4f", f->low, f->high, r->first.p, r->first.q);
	else
		fprintf(out, "-\t-\t-\t-");
	fprintf(out, "\t%s\n", r->sign);
}

/* "slot_mib=32 stall_max_us" becomes a line "32 BASE STACK" of ...stall_max_us.dat. */
static void write_curve(const char *dir, const struct row *r)
{
	const char *blank = strchr(r->key, ' ');
	char path[1024];
	FILE *f;

	if (strncmp(r->key, "slot_mib=", 9) || !blank)
		return;
	snprintf(path, sizeof(path), "%s/%s.%s.%s.dat", dir, r->lane, r->test, blank + 1);
	f = open_data(path, "a");
	fprintf(f, "%.*s %g %g\n", (int)(blank - r->key - 9), r->key + 9,
		median(&r->first.side[0]), median(&r->first.side[1]));
	close_data(path, f);
}

/* Takes one line; false if it isn't of our making. */
static bool read_line(char *line)
{
	char *field[7], *end, *rest = line;
	enum kind kind;
	double value;
	size_t n;

	for (n = 0; n < 7; n++) {
		field[n] = strsep(&rest, "\t");
		if (!field[n])
			return false;
	}
	for (kind = COUNT; kind <= MORE && strcmp(field[6], kind_names[kind]); kind++)
		;
	if (kind > MORE || rest)
		return false;
	value = strtod(field[5], &end);
	if (end == field[5] || *end || !isfinite(value))
		return true;	/* a word, e.g. a mode's name: nothing to compare */
	/* The ratio of what is negative says nothing. */
	if (value < 0)
		kind = COUNT;
	if (strcmp(field[1], "base") && strcmp(field[1], "stack"))
		return true;
	/* Repetitions of a test, "NAME:2", are samples of NAME. */
	field[3][strcspn(field[3], ":")] = '\0';
	struct row *r = row_of(field[0], field[3], field[4], kind);

	if (kind == COUNT)
		r->kind = COUNT;
	add(&boot_of(&r->side[!strcmp(field[1], "stack")], field[2])->samples, value);
	return true;
}

int main(int argc, char **argv)
{
	const char *dir = NULL, *file;
	size_t line_nr = 0, room = 0, i;
	char path[1024], *line = NULL;
	FILE *f, *out = NULL;

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
	while (getline(&line, &room, f) > 0) {
		line_nr++;
		line[strcspn(line, "\n")] = '\0';
		if (!read_line(line)) {
			fprintf(stderr, "compare: %s:%zu: wants LANE KERNEL ROUND TEST KEY VALUE KIND, tab separated\n",
				file, line_nr);
			return 2;
		}
	}
	free(line);
	fclose(f);

	for (i = 0; i < nr_rows; i++)
		find(&rows[i]);
	correct();
	if (dir) {
		snprintf(path, sizeof(path), "%s/rows.tsv", dir);
		out = open_data(path, "w");
	}
	printf("%-15s %-20s %-42s %12s %12s %7s %s\n", "lane", "test", "key", "base", "stack", "boots",
	       "stack to base");
	for (i = 0; i < nr_rows; i++) {
		struct row *r = &rows[i];

		if (!r->first.side[0].nr || !r->first.side[1].nr)
			continue;
		r->sign = sign_of(r);
		print_row(r);
		if (!dir || r->kind == COUNT)
			continue;
		write_row(out, r);
		write_curve(dir, r);
	}
	if (dir)
		close_data(path, out);
	return 0;
}
