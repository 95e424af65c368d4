package main

var reportsDisks = []reportCase{}
