#!/usr/bin/env bats
# What the README and the cover letter say exists.

load common

# DOCS: what shows commands.
setup() {
	cd "$REAL"
	DOCS=(README.md docs/*.md)
}

@test "what a page links to is there" {
	for page in "${DOCS[@]}" ci/README.md; do
		grep -oE '\]\([^)#]+' "$page" | cut -c3- | grep -v '^http' | while read -r link; do
			[[ -e $(dirname "$page")/$link ]] || { echo "$page: $link"; exit 1; }
		done
	done
}

@test "every program, file and option that the README shows exists" {
	cd "$REAL"
	grep -hoE '(scripts/stack|ci/[a-z]+|make) [a-z-]+' "${DOCS[@]}" | sort -u | while read -r program verb; do
		case $program in
		make) grep -q "^$verb:" Makefile || { [[ $verb =~ ^(and|or)$ ]] || { echo "make $verb"; exit 1; }; } ;;
		scripts/stack) scripts/stack --help | grep -q "  $verb" || { echo "stack $verb"; exit 1; } ;;
		esac
	done
	sed -n '/```sh/,/```/p' "${DOCS[@]}" | grep -oE '^ci/run .*' | sed 's/ -- .*//' | grep -oE -- '--[a-z]+' | sort -u | while read -r option; do
		ci/run --help | grep -q -- "$option" || { echo "ci/run $option"; exit 1; }
	done
	for path in $(grep -hoE '`(ci|scripts|patches|selftests|models|native|build)(/[a-zA-Z0-9/._-]*)?`' "${DOCS[@]}" | tr -d '`' | sort -u); do
		[[ -e $path || $path == build* ]] || { echo "$path"; exit 1; }
	done
}

@test "every lane of the README exists, and every topic of series has a section in the cover letter" {
	cd "$REAL"
	for lane in ci/lanes/*; do
		lane=$(basename "$lane")
		grep -q "\`$lane\`" docs/lanes.md || [[ $lane =~ -(lockdep|kasan|kcsan|nx|nosplit|shared|rt|preempt)$ ]]
	done
	sed -n 's/^# topic: \([a-z0-9-]*\) .*/\1/p' series | while read -r topic; do
		grep -qx "## $topic" COVER-LETTER.md
	done
}

@test "the repository names no path of the machine it was made on" {
	cd "$REAL"
	run git grep -nE '(^|[ "=(])/(root|home|tmp)/' -- . ':!tests/readme.bats'
	[[ -z $output ]] || { echo "$output"; false; }
}
