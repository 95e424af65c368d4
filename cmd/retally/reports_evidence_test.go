package main

var reportsEvidence = []reportCase{}
