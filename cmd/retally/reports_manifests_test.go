package main

var reportsManifests = []reportCase{}
