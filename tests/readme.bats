#!/usr/bin/env bats
# What the README and the cover letter say exists.

load common

@test "every program, file and option that the README shows exists" {
	cd "$REAL"
	grep -oE '(scripts/stack|ci/[a-z]+|make) [a-z-]+' README.md | sort -u | while read -r program verb; do
		case $program in
		make) grep -q "^$verb:" Makefile || { [[ $verb =~ ^(and|or)$ ]] || { echo "make $verb"; exit 1; }; } ;;
		scripts/stack) scripts/stack --help | grep -q "  $verb" || { echo "stack $verb"; exit 1; } ;;
		esac
	done
	sed -n '/```sh/,/```/p' README.md | grep -oE '^ci/run .*' | sed 's/ -- .*//' | grep -oE -- '--[a-z]+' | sort -u | while read -r option; do
		ci/run --help | grep -q -- "$option" || { echo "ci/run $option"; exit 1; }
	done
	for path in $(grep -oE '`(ci|scripts|patches|selftests|models|native|build)(/[a-zA-Z0-9/._-]*)?`' README.md | tr -d '`' | sort -u); do
		[[ -e $path || $path == build* ]] || { echo "$path"; exit 1; }
	done
}

@test "every lane of the README exists, and every topic of series has a section in the cover letter" {
	cd "$REAL"
	for lane in ci/lanes/*; do
		lane=$(basename "$lane")
		grep -q "\`$lane\`" README.md || [[ $lane =~ -(lockdep|kasan|kcsan|nx|nosplit)$ ]]
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
