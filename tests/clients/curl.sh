#!/bin/sh
# usage: curl.sh URL PHOTO: print the top class, and the number of bytes of the heatmap
set -eu
url=$1 photo=$2
map=$(mktemp)
trap 'rm -f "$map"' EXIT

prediction=$(curl --fail-with-body --silent --show-error --form "image=@$photo" --form top_k=1 "$url/predict")
echo "$prediction" | sed 's/.*"predictions":\[{"label":"\([^"]*\)".*/\1/'
curl --fail-with-body --silent --show-error --data-binary "@$photo" --output "$map" "$url/cam"
wc -c < "$map"
