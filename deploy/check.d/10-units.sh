# The installation, and the units as it leaves them. What they do in a running systemd is another part.
need systemd make

staging=$work/staging
placed=$work/placed
mkdir "$staging"

# in_staging TARGET: makes TARGET in the repository, for PREFIX, and without what a make above us says.
in_staging() { env -u MAKEFLAGS -u MAKELEVEL make -s -C "$repo" "$1" DESTDIR="$staging" PREFIX="$prefix"; }
files() { (cd "$staging" && find . -type f -printf '%m %p\n' | sort -k 2); }
installs() {
  in_staging install && diff - <(files) <<END
644 ./etc/logrotate.d/taskapi
644 ./etc/sysctl.d/60-taskapi.conf
755 .$prefix/bin/taskapi
644 .$prefix/lib/systemd/system/syslog.socket.d/taskapi.conf
644 .$prefix/lib/systemd/system/taskapi.service
644 .$prefix/lib/systemd/system/taskapi.socket
END
}
uninstalls() { in_staging uninstall && ! files | grep .; }
unchanged() {
  local unit
  for unit in taskapi.service taskapi.socket; do
    diff "$deploy/$unit" "$staging$prefix/lib/systemd/system/$unit" || return
  done
  diff "$deploy/logrotate.conf" "$staging/etc/logrotate.d/taskapi" &&
    diff "$deploy/sysctl.conf" "$staging/etc/sysctl.d/60-taskapi.conf" &&
    diff "$deploy/syslog.socket.conf" "$staging$prefix/lib/systemd/system/syslog.socket.d/taskapi.conf"
}

# systemd-analyze verify exits 0 for much of what it complains about.
verifies() {
  local said
  said=$(systemd-analyze verify --recursive-errors=yes "$units"/taskapi.{service,socket} 2>&1) && [ -z "$said" ] && return
  echo "$said" && return 1
}
exposed() { systemd-analyze security --no-pager --offline=true --threshold="$1" "$units/taskapi.service"; }

prefix=/usr/local
check "make install puts the binary, the units and the rotation rules in place" installs
check "make install leaves them as they are shipped" unchanged
check "make uninstall removes them all" uninstalls

# For another PREFIX, the unit has to name the binary there. Moved out of the staging directory, it can be verified here.
prefix=$placed
units=$placed/lib/systemd/system
check "make install follows PREFIX" installs
mv "$staging$placed" "$placed"
check "systemd-analyze verify says nothing about the units" verifies
check "systemd-analyze security rates the service 0.3 or lower" exposed 3
