package main

var reportsImages = []reportCase{}
